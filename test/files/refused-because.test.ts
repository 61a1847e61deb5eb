import { expect, it } from 'vitest';
import { CopierError } from '../../copier/contract.ts';
import { refusedBecause } from '../../files/refused-because.ts';
import { HoldfastError } from '../../schemas/failures.ts';

const ioError = new HoldfastError('FilesNotReadable', 'libguestfs: read: /large: Input/output error');

it('tells why bytes were refused where libguestfs knows of an I/O error alone', () => {
  const altered = new CopierError('integrity', 'vm/disk-0/full.qcow2: bytes 0-1048576 were altered');
  expect(refusedBecause(ioError, [altered, new Error('another')])).toMatchObject({
    type: 'IntegrityMismatch',
    message:
      'vm/disk-0/full.qcow2: bytes 0-1048576 were altered (and 1 more); libguestfs: read: /large: Input/output error',
    cause: ioError,
  });
});

it('leaves errors alone that are of something else', () => {
  const notFound = new HoldfastError('FileNotFound', 'the backup has no /none');
  expect(refusedBecause(notFound, [new Error('refused')])).toBe(notFound);
  expect(refusedBecause(ioError, [])).toBe(ioError);
});
