import type { Command } from 'commander';
import { judgeRetention, type JudgedRetention } from '../../activities/control/judge-retention.ts';
import type { Catalog } from '../../catalog/contract.ts';
import { startApplyRetention } from '../../operations/start.ts';
import { HoldfastError } from '../../schemas/failures.ts';
import { applyRetentionRequest } from '../../schemas/requests.ts';
import type { RetentionRules } from '../../schemas/retention.ts';
import type { FleetRetention, VmRetention } from '../../workflows/apply-retention.ts';
import { action } from '../context.ts';
import { followOrLeave } from '../follow-run.ts';
import { shortId, sizeText, table } from '../output.ts';
import { addRuleOptions, rulesOf, rulesText, type RuleFlags } from '../retention-options.ts';
import { parseName, parseVm } from './dev.ts';
import { vmNamed } from './vm.ts';

export function addRetentionCommands(program: Command): void {
  const retention = program.command('retention').description('which backups are kept, and which go');
  addRuleOptions(
    retention
      .command('preview')
      .description("show what rules would keep of a VM's backups, and why; nothing is deleted")
      .argument('<vm>', 'name or UUID', parseVm)
      .option('--offering <name>', "the rules of this offering (default: the VM's)", parseName),
  )
    .addHelpText(
      'after',
      '\nExamples:\n  $ holdfast retention preview web-1\n  $ holdfast retention preview web-1 --keep-daily 7 --keep-weekly 4 --timezone Europe/Berlin',
    )
    .action(
      action(async (context, name: string, flags: RuleFlags & { offering?: string }) => {
        const catalog = await context.catalog();
        const vm = await vmNamed(catalog, name);
        const rules = rulesOf(flags) ?? (await rulesOfOffering(catalog, vm, flags));
        const backups = await judgeRetention(catalog, vm.uuid, rules, new Date());
        const freedBytes = sumOf(backups);
        context.output.result({ vm: { uuid: vm.uuid, name: vm.name }, rules, backups, freedBytes }, () =>
          [
            rulesText(rules),
            table(
              ['BACKUP', 'INSTANT', 'REPOSITORY', 'STORED', 'OUTCOME', 'KEPT BY'],
              backups.map((row) => [
                shortId(row.id),
                row.instant,
                row.repository,
                sizeText(row.storedBytes),
                row.outcome,
                row.keptBy.join(', '),
              ]),
              `VM ${vm.name} has no backups`,
            ),
            `${sizeText(freedBytes)} would be freed; hidden backups give theirs back when the last that is built on them goes`,
          ].join('\n'),
        );
      }),
    );
  retention
    .command('apply')
    .description('delete what the rules let go, of one VM or of all; done by itself after every backup')
    .argument('[vm]', 'name or UUID', parseVm)
    .option('--dry-run', 'tell what would go and what would stay, and delete nothing')
    .option('--no-wait', 'print the job and return')
    .addHelpText('after', '\nExamples:\n  $ holdfast retention apply web-1 --dry-run\n  $ holdfast retention apply')
    .action(
      action(async (context, vm: string | undefined, flags: { dryRun?: boolean; wait: boolean }) => {
        const request = applyRetentionRequest.parse({ vm, dryRun: flags.dryRun });
        const run = await startApplyRetention(await context.client(), request);
        const applied = await followOrLeave<VmRetention | FleetRetention>(run, flags, context.output);
        if (applied === undefined) return;
        context.output.result(applied, () => ('vm' in applied ? textOfVm(applied) : textOfFleet(applied)));
        if ('problems' in applied && applied.problemCount > 0) process.exitCode = 1;
      }),
    );
}

async function rulesOfOffering(
  catalog: Catalog,
  vm: { name: string; offering: string | null },
  flags: { offering?: string },
): Promise<RetentionRules> {
  const name = flags.offering ?? vm.offering;
  if (name === null) {
    throw new HoldfastError(
      'NoRetention',
      `VM ${vm.name} is protected by no offering; name one with --offering, or give rules like --keep-last 7`,
    );
  }
  const offering = await catalog.offerings.find(name);
  if (offering === undefined) {
    throw new HoldfastError('OfferingNotFound', `offering: ${name} is not known; see: holdfast offering ls`);
  }
  if (offering.retention !== null) return offering.retention;
  throw new HoldfastError('NoRetention', `offering ${name} has no retention; give rules like --keep-last 7`);
}

const sumOf = (backups: JudgedRetention[]): number =>
  backups.reduce((sum, { outcome, storedBytes }) => sum + (outcome === 'deleted' ? storedBytes : 0), 0);

function textOfVm({ vm, dryRun, keptCount, left, removed, freedBytes }: VmRetention): string {
  const would = dryRun ? 'would be ' : '';
  return [
    ...removed.map(
      ({ id, instant, outcome, freedBytes: bytes }) =>
        `backup ${shortId(id)} of ${instant ?? 'no instant'} ${would}${outcome}${outcome === 'deleted' ? `, ${sizeText(bytes)}` : ''}`,
    ),
    `VM ${vm.name}: ${keptCount} kept, ${removed.length} ${would}removed, ${sizeText(freedBytes)} ${would}freed`,
    ...(left > 0 ? [`${left} more go with the next run`] : []),
  ].join('\n');
}

function textOfFleet({ dryRun, vms, kept, removed, freedBytes, problems, problemCount }: FleetRetention): string {
  const would = dryRun ? 'would be ' : '';
  return [
    `${vms} VMs: ${kept} backups kept, ${removed} ${would}removed, ${sizeText(freedBytes)} ${would}freed`,
    ...problems.map(({ vm, message }) => `problem with VM ${vm}: ${message}`),
    ...(problemCount > problems.length ? [`${problemCount - problems.length} more problems`] : []),
  ].join('\n');
}
