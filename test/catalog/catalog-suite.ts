import { openCatalog } from '../../catalog/open-catalog.ts';
import { admissionsSuite } from './admissions-suite.ts';
import { backupsSuite } from './backups-suite.ts';
import { chainsSuite } from './chains-suite.ts';
import { consolidationsSuite } from './consolidations-suite.ts';
import { copiesSuite } from './copies-suite.ts';
import { installationSuite } from './installation-suite.ts';
import { processesSuite } from './processes-suite.ts';
import { rescanSuite } from './rescan-suite.ts';
import { scheduleSuite } from './schedule-suite.ts';
import { transactionsSuite } from './transactions-suite.ts';
import { validationsSuite } from './validations-suite.ts';
import { vmsSuite } from './vms-suite.ts';

/** What every catalog does, whichever database keeps it. `newUrl` names an empty one. */
export function catalogSuite(newUrl: () => Promise<string>): void {
  const openNew = async () => await openCatalog(await newUrl());

  installationSuite(newUrl);
  vmsSuite(openNew);
  backupsSuite(newUrl);
  chainsSuite(openNew);
  validationsSuite(openNew);
  consolidationsSuite(openNew);
  copiesSuite(openNew);
  admissionsSuite(openNew);
  transactionsSuite(newUrl);
  processesSuite(newUrl);
  scheduleSuite(openNew);
  rescanSuite(openNew);
}
