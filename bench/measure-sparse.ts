import { GIB } from './disk-content.ts';
import { compared, interleaved, median, type Bench, type Row } from './harness.ts';
import { discardRepositoryFiles } from './measure-full.ts';
import { peakOf } from './measure-memory.ts';

/** A disk of 2 TiB beside one of 20 GiB that holds the same data. */
export async function measureSparse(bench: Bench): Promise<Row[]> {
  const { installation, dataBytes } = bench;
  const peaks = { large: [] as number[], small: [] as number[] };
  const contender = async (name: 'large' | 'small', sizeBytes: number) => {
    const guest = await bench.guest(`sparse-${name}`, [{ sizeBytes, dataBytes }]);
    return {
      act: async () => {
        peaks[name].push(
          await peakOf(installation, () => installation.take(guest.name, '--full', '--quiesce', 'none')),
        );
      },
      clean: () => discardRepositoryFiles(bench, guest),
    };
  };
  const seconds = await interleaved(bench, {
    large: await contender('large', 2048 * GIB),
    small: await contender('small', 20 * GIB),
  });
  return [
    compared(
      'full of a 2 TiB sparse disk, to one of 20 GiB with the same data, time',
      seconds.large,
      seconds.small,
      1.1,
    ),
    {
      measurement: 'the same, peak memory of the worker',
      ours: `${median(peaks.large).toFixed(0)} MB`,
      peer: `${median(peaks.small).toFixed(0)} MB`,
      figure: median(peaks.large) / median(peaks.small),
      target: 1.1,
    },
  ];
}
