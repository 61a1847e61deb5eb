import { describe, expect, it } from 'vitest';
import { judge } from '../../activities/host/guest-command.ts';
import { validationCommand } from '../../schemas/catalog.ts';

const base64 = (text: string): string => Buffer.from(text).toString('base64');
const command = (given: object = {}) => validationCommand.parse({ argv: ['/bin/check', 'a,b'], ...given });

describe('a command in the guest', () => {
  it.each([
    ['no output, none expected', {}, { exitcode: 0 }, 'passed'],
    ['no output, an empty one expected', { output: '' }, { exitcode: 0 }, 'passed'],
    ['output nobody expects', {}, { exitcode: 0, 'out-data': base64('x') }, 'passed'],
    [
      'the output with white space around',
      { output: ' ok\n' },
      { exitcode: 0, 'out-data': base64('\nok \n') },
      'passed',
    ],
    ['another output', { output: 'ok' }, { exitcode: 0, 'out-data': base64('not ok') }, 'failed'],
    ['no output where some is expected', { output: 'ok' }, { exitcode: 0 }, 'failed'],
    ['output on stderr alone', { output: 'ok' }, { exitcode: 0, 'err-data': base64('ok') }, 'failed'],
    ['another exit code', {}, { exitcode: 1 }, 'failed'],
    ['the expected exit code', { exitCode: 3 }, { exitcode: 3 }, 'passed'],
    ['a signal', {}, { signal: 9 }, 'failed'],
    ['a signal beside an exit code', {}, { signal: 15, exitcode: 0 }, 'failed'],
    ['neither exit code nor signal', {}, {}, 'failed'],
  ])('%s', (_, expected, ended, result) => {
    expect(judge(command(expected), { exited: true, ...ended }).result).toBe(result);
  });

  it('tells what was printed, bounded', () => {
    const { detail } = judge(command({ output: 'ok' }), {
      exited: true,
      exitcode: 0,
      'out-data': base64('x'.repeat(1e6)),
    });
    expect(detail).toContain('expected was "ok"');
    expect(detail.length).toBeLessThan(600);
    expect(judge(command(), { exited: true, exitcode: 2, 'err-data': base64('no such table') }).detail).toBe(
      '/bin/check ended with exit code 2, expected was 0; it complained "no such table"',
    );
    expect(judge(command(), { exited: true, signal: 9 }).detail).toBe('/bin/check was ended by signal 9');
  });
});
