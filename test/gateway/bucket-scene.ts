import { execFileSync } from 'node:child_process';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { expect } from 'vitest';
import { parseDomainXml } from '../../libvirt/domain-xml.ts';
import type { Backup, RestoredVm } from '../../schemas/backup.ts';
import type { S3Place } from '../../schemas/repository.ts';
import { expectVmClean } from '../support/clean-vm.ts';
import { qemuImgCheck, qemuImgInfo, sha256OfImage } from '../support/disk-content.ts';
import { newKeyPair } from '../support/encrypted-chain.ts';
import { startFaultProxy, type FaultProxy } from '../support/fault-proxy.ts';
import type { Guest } from '../support/guest.ts';
import { startS3Server, type S3Server } from '../support/s3-server.ts';
import { MiB, PatternedDisk, startTestBed, type TestBed } from '../support/test-bed.ts';

const SYSTEM_BYTES = 16 * MiB;
/** More than a gateway reads ahead, so that a guest that reads it all asks the bucket again and again. */
const DATA_BYTES = 96 * MiB;
/** What waits for many steps of several processes has much time: the machine may be busy. */
export const PATIENT = { timeoutMs: 150_000, everyMs: 200 };

/** A VM that was stopped, and its backups in two buckets of one server: encrypted behind a proxy, and plain. */
export class BucketScene implements AsyncDisposable {
  readonly vda = new PatternedDisk(0, SYSTEM_BYTES);
  readonly vdb = new PatternedDisk(1, DATA_BYTES);
  /** What no process, no definition and no note of a gateway may show. */
  readonly secrets: string[] = [];
  readonly server: S3Server;
  readonly proxy: FaultProxy;
  readonly bed: TestBed;
  readonly guest: Guest;

  private constructor(server: S3Server, proxy: FaultProxy, bed: TestBed, guest: Guest) {
    this.server = server;
    this.proxy = proxy;
    this.bed = bed;
    this.guest = guest;
  }

  static async start(host: string): Promise<BucketScene> {
    const server = await startS3Server('versitygw');
    const proxy = await startFaultProxy(server);
    const bed = await startTestBed(host);
    const guest = await bed.guest({
      name: 'far',
      disks: [
        { target: 'vda', sizeBytes: SYSTEM_BYTES, format: 'qcow2', fs: 'none' },
        { target: 'vdb', sizeBytes: DATA_BYTES, format: 'qcow2', fs: 'none' },
      ],
    });
    const scene = new BucketScene(server, proxy, bed, guest);
    await bed.host.libvirt.create(guest.dom);
    await scene.vda.write(guest, 0, 2 * MiB, 0x11);
    await scene.vdb.write(guest, 0, 80 * MiB, 0x12);
    return scene;
  }

  /** Full and incremental, in a bucket whose keys only the operator has. The guest writes between them. */
  async takeSealed(): Promise<Backup> {
    const { identity, recipient } = await newKeyPair();
    const identityFile = join(this.bed.dir, 'operator.key');
    await writeFile(identityFile, `${identity}\n`, { mode: 0o600 });
    const keys = ['--encrypt', '--recipient', recipient, '--identity-file', identityFile];
    const vault = await this.#addBucket('vault', keys, this.proxy.endpoint);
    const repositoryKey = execFileSync('age', ['-d', '-i', identityFile, this.#inBucket(vault, 'keys/identity.age')]);
    this.secrets.push(this.server.keys.secretAccessKey, identity, repositoryKey.toString().trim());
    await this.bed.take('far', { repository: 'vault', compression: 'none' });
    await this.vda.write(this.guest, MiB, MiB, 0x13);
    await this.vdb.write(this.guest, 70 * MiB, 20 * MiB, 0x14);
    const sealed = await this.bed.take('far', { repository: 'vault', compression: 'none' });
    expect(sealed.type).toBe('incremental');
    return sealed;
  }

  async takePlain(): Promise<Backup> {
    await this.#addBucket('open', [], this.server.endpoint);
    return await this.bed.take('far', { repository: 'open' });
  }

  async #addBucket(name: string, flags: string[], endpoint: string): Promise<S3Place> {
    const { bucket, prefix } = await this.server.newPlace();
    const { location } = await this.bed.holdfast.json<{ location: S3Place }>(
      ...['repo', 'add', `s3://${bucket}/${prefix}`, '--name', name, '--path-style', '--endpoint', endpoint],
      ...['--credentials-file', this.server.credentialsFile, ...flags],
    );
    return location;
  }

  /** versitygw keeps each object as a file. */
  #inBucket = ({ bucket, prefix }: S3Place, key: string): string => join(this.server.dataDir, bucket, prefix, key);

  get gatewaysFolder(): string {
    return join(this.bed.holdfast.dataDir, 'hosts', this.bed.host.name, 'gateways');
  }

  /** Process of the only gateway there is. */
  async gatewayPid(): Promise<number> {
    const [id = ''] = await readdir(this.gatewaysFolder);
    const holder = await readFile(join(this.gatewaysFolder, id, 'process'), 'utf8');
    return Number(holder.split(' ')[0]);
  }

  async isPulled({ dom }: Guest, target: string): Promise<boolean> {
    const job = await this.bed.host.libvirt.blockJobInfo(dom, target);
    return job?.type === 'pull' && job.currentBytes > 0;
  }

  /** The VM runs on disks of its own: sound, right to the last byte, and nothing is left of the restore. */
  async expectIndependent(
    copy: Guest,
    { disks }: Pick<RestoredVm, 'disks'>,
    sums: Record<string, string>,
  ): Promise<void> {
    const { libvirt } = this.bed.host;
    const paths = Object.fromEntries(disks.map(({ target, path }) => [target, path]));
    const all = [...this.guest.disks.map(({ path }) => path), ...Object.values(paths)].map((path) => basename(path));
    await expectVmClean(copy, copy.name, { activeImages: paths, otherFiles: all });
    const xml = await libvirt.domainXml(copy.dom, { inactive: true });
    expect(parseDomainXml(xml).disks.flatMap(({ backingChain }) => backingChain)).toEqual([]);
    await libvirt.destroy(copy.dom);
    for (const [target, path] of Object.entries(paths)) {
      await qemuImgCheck(path);
      expect((await qemuImgInfo(path)).backingFile).toBeNull();
      expect(await sha256OfImage(path, 'qcow2')).toBe(sums[target]);
    }
    await libvirt.undefine(copy.dom);
    for (const path of Object.values(paths)) await rm(path);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.bed[Symbol.asyncDispose]();
    await this.proxy[Symbol.asyncDispose]();
    await this.server[Symbol.asyncDispose]();
  }
}
