import { shortId, sizeText, table } from '../cli/output.ts';
import type { Playground } from './playground.ts';
import type { Proof } from './prove-backups.ts';

export function closingTable({ rows, isProven }: Proof): string {
  const cells = rows.map(({ backup, seconds, compared, differs }) => [
    shortId(backup.id),
    backup.type,
    sizeText(backup.disks.reduce((sum, { changedBytes }) => sum + changedBytes, 0)),
    sizeText(backup.storedBytes),
    seconds.toFixed(1),
    differs.length === 0 ? `yes: ${compared} SHA-256 sums are equal` : `NO: ${differs.join(', ')}`,
  ]);
  return [
    table(['BACKUP', 'TYPE', 'CHANGED', 'STORED', 'SECONDS', 'VERIFIED'], cells, ''),
    '',
    isProven
      ? 'The VM was destroyed and came back: every disk and every file is as it was.'
      : 'The restored VM is NOT what was backed up.',
  ].join('\n');
}

export const howToUseWhatIsKept = ({ dir, dataDir, host }: Playground, { temporalUi }: Proof): string => `Still running:
  Temporal UI   ${temporalUi}
  Holdfast      bin/holdfast --data ${dataDir} vm ls
                bin/holdfast --data ${dataDir} backup take web-1
  the KVM host  virsh -c 'qemu:///system?socket=${host.socketPath}' list --all
End it, and remove its folder:
  npm run quickstart -- --stop ${dir}
`;

export const howToGoOn = (): string => `With VMs of your own:
  bin/holdfast doctor                          # does this host allow it?
  bin/holdfast dev --repo /srv/backups         # runs until Ctrl-C; then, in a second terminal:
  bin/holdfast vm ls
  bin/holdfast backup take VM
  bin/holdfast backup ls VM
  bin/holdfast restore ID --as VM-check`;
