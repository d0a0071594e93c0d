/**
 * A process to be killed: an image store that pulls and removes without end, or pulls once. For image-kill.e2e.ts.
 *
 *     node image-child.ts <directory> <registries.conf> churn|pull <reference>…
 */
import { RegistryPolicy, FileImageStore } from '../../pkg/image/index.ts';
import { OverlayRootfs } from '../../pkg/rootfs/overlay.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';

const [directory = '', registriesConf = '', mode = '', ...references] = process.argv.slice(2);
const op = backgroundOp(silent);
const rootfs = new OverlayRootfs({ root: directory });
await rootfs.sweepLayers(op);
const store = new FileImageStore({
  root: directory,
  unpacker: rootfs,
  policy: new RegistryPolicy({ registriesConf, registriesConfDir: '', hostsDirs: [], certsDirs: [] }),
  pullProgressTimeoutMs: 0,
});
await store.load(op);
await store.sweep(op);
process.stdout.write('ready\n');
for (let round = 0; mode === 'churn' || round === 0; round++) {
  await Promise.all(
    references.map(async (reference, index) => {
      await store.pull(op, reference, {});
      if (mode === 'churn' && (index + round) % 2 === 0) await store.remove(op, reference);
    }),
  );
}
process.exit(0);
