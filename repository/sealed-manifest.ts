import { Decrypter, Encrypter } from 'age-encryption';
import { z } from 'zod';
import { manifest as manifestSchema, manifestDisk, type Manifest, type ManifestDisk } from '../schemas/manifest.ts';
import type { RepositoryEncryption } from '../schemas/repository.ts';
import { validationResult as resultSchema, type ValidationResult } from '../schemas/validation.ts';
import { ageErrorOf } from './age-head.ts';
import { manifestKey } from './layout.ts';
import { RepositoryError } from './repository-error.ts';
import { keyErrorOf, type RepositoryKeys } from './repository-keys.ts';

/** What of a manifest is the guest's own: its NVRAM and vTPM. Sealed in every encrypted repository. */
const guestsPart = manifestSchema.pick({ files: true });

/** What tells whose backup it is, and where it was. Sealed too where names are hidden. */
const namesPart = manifestSchema
  .pick({
    host: true,
    source: true,
    domainXml: true,
    checkpointXml: true,
    skippedDisks: true,
    requestedBy: true,
    run: true,
    versions: true,
  })
  .extend({
    vmName: z.string(),
    disks: z.array(manifestDisk.pick({ target: true, serial: true, sourcePath: true, sourceMark: true })),
  });

/** `id` is that of the backup, so that the part of another one is not taken for it. */
const sealedPart = guestsPart.extend({ id: manifestSchema.shape.id, names: namesPart.optional() });
type SealedPart = z.infer<typeof sealedPart>;

const sealedResult = resultSchema.pick({ host: true }).extend({ details: z.array(z.string()) });

/** Stands for a text that is sealed. */
const HIDDEN = 'encrypted';

/**
 * The manifest as an encrypted repository keeps it: what hosts and checks need without an identity stays, what is the
 * guest's goes into `sealed`. Needs the public key only.
 */
export async function sealManifest(whole: Manifest, encryption: RepositoryEncryption): Promise<Manifest> {
  const { files, ...rest } = whole;
  if (encryption.hideNames) delete rest.run;
  const part: SealedPart = {
    id: whole.id,
    files,
    ...(encryption.hideNames ? { names: namesOf(whole) } : {}),
  };
  const open: Manifest = { ...rest, ...(encryption.hideNames ? withoutNames(whole) : {}), files: [] };
  const sealed = (await sealBytes(Buffer.from(JSON.stringify(part)), encryption)).toString('base64');
  if (open.validationResult === undefined) return { ...open, sealed };
  return { ...open, validationResult: await sealResult(open.validationResult, encryption), sealed };
}

const namesOf = (whole: Manifest): SealedPart['names'] => ({
  vmName: whole.vm.name,
  host: whole.host,
  source: whole.source,
  domainXml: whole.domainXml,
  checkpointXml: whole.checkpointXml,
  skippedDisks: whole.skippedDisks,
  requestedBy: whole.requestedBy,
  ...(whole.run === undefined ? {} : { run: whole.run }),
  versions: whole.versions,
  disks: whole.disks.map(({ target, serial, sourcePath, sourceMark }) => ({
    target,
    serial,
    sourcePath,
    ...(sourceMark === undefined ? {} : { sourceMark }),
  })),
});

const withoutNames = ({ vm, source, disks, domainXml, checkpointXml }: Manifest): Partial<Manifest> => ({
  vm: { ...vm, name: vm.uuid },
  host: HIDDEN,
  source: { platform: source.platform, metadata: {} },
  domainXml: { inactive: '', live: domainXml.live === null ? null : '' },
  checkpointXml: checkpointXml === null ? null : HIDDEN,
  skippedDisks: [],
  requestedBy: null,
  versions: {},
  disks: disks.map(withoutPlace),
});

function withoutPlace(disk: ManifestDisk): ManifestDisk {
  const { sourceMark: _, ...rest } = disk;
  return { ...rest, serial: null, sourcePath: null };
}

/** What a validation found, for an encrypted repository: details may quote the guest. Needs the public key only. */
export async function sealResult(
  result: ValidationResult,
  encryption: RepositoryEncryption,
): Promise<ValidationResult> {
  const { host, steps } = result;
  const part = { host, details: steps.map(({ detail }) => detail) };
  const sealed = await sealBytes(Buffer.from(JSON.stringify(part)), encryption);
  return {
    ...result,
    host: encryption.hideNames && host !== null ? HIDDEN : host,
    steps: steps.map((step) => ({ ...step, detail: HIDDEN })),
    sealed: sealed.toString('base64'),
  };
}

/**
 * The whole manifest, for a holder of the repository's keys; one that is not sealed comes back as it is.
 * @param keys null where there are none: then a sealed one is refused
 * @throws RepositoryError `key-missing`, `key-wrong`, `invalid`
 */
export async function unsealManifest(stored: Manifest, keys: RepositoryKeys | null): Promise<Manifest> {
  if (stored.sealed === undefined) return stored;
  const file = manifestKey(stored.vm.uuid, stored.id);
  const { sealed, ...open } = stored;
  const part = await openPart(sealed, sealedPart, keys, file);
  if (part.id !== stored.id) throw new RepositoryError('invalid', file, `holds the sealed part of backup ${part.id}`);
  const whole: Manifest = {
    ...open,
    ...(part.names === undefined ? {} : withNames(open, part.names)),
    files: part.files,
  };
  const { validationResult } = whole;
  if (validationResult?.sealed === undefined) return whole;
  return { ...whole, validationResult: await unsealResult(validationResult, keys, file) };
}

/** Its names are in its sealed part: in the open the VM is called by its UUID. */
export const hidesNames = ({ sealed, host, vm }: Manifest): boolean =>
  sealed !== undefined && host === HIDDEN && vm.name === vm.uuid;

function withNames({ vm, disks }: Manifest, names: NonNullable<SealedPart['names']>): Partial<Manifest> {
  const { vmName, disks: own, ...rest } = names;
  return {
    ...rest,
    vm: { ...vm, name: vmName },
    disks: disks.map((disk) => ({ ...disk, ...own.find(({ target }) => target === disk.target) })),
  };
}

async function unsealResult(
  { sealed = '', ...open }: ValidationResult,
  keys: RepositoryKeys | null,
  file: string,
): Promise<ValidationResult> {
  const { host, details } = await openPart(sealed, sealedResult, keys, file);
  const steps = open.steps.map((step, index) => ({ ...step, detail: details[index] ?? step.detail }));
  return { ...open, host, steps };
}

async function openPart<T extends z.ZodType>(
  sealed: string,
  schema: T,
  keys: RepositoryKeys | null,
  file: string,
): Promise<z.output<T>> {
  const bytes = await openBytes(Buffer.from(sealed, 'base64'), keys, file);
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (error) {
    throw new RepositoryError('invalid', file, 'its sealed part is not JSON', { cause: error });
  }
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new RepositoryError('invalid', file, `its sealed part: ${parsed.error.issues[0]?.message ?? 'does not fit'}`);
}

/** Encrypts a small blob to the repository's recipient: a picture, a part of a manifest. */
export async function sealBytes(plain: Uint8Array, { recipient }: RepositoryEncryption): Promise<Buffer> {
  const encrypter = new Encrypter();
  encrypter.addRecipient(recipient);
  return Buffer.from(await encrypter.encrypt(plain));
}

/** @param file key of the blob, for messages @throws RepositoryError `key-missing`, `key-wrong`, `invalid` */
export async function openBytes(sealed: Uint8Array, keys: RepositoryKeys | null, file: string): Promise<Buffer> {
  if (keys === null)
    throw new RepositoryError('key-missing', file, 'is encrypted, and there is no identity to open it');
  const decrypter = new Decrypter();
  for (const identity of keys.identities) decrypter.addIdentity(identity);
  return Buffer.from(
    await decrypter.decrypt(sealed).catch((error: unknown) => {
      throw keyErrorOf(ageErrorOf(error), file, "the repository's keys");
    }),
  );
}
