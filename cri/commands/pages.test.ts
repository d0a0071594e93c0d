import { assert } from 'chai';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { codeOf } from '../../pkg/base/errors.ts';
import { containerLines, fetchPage, infoLines } from './pages.ts';

describe('what status shows of CRI-O’s pages', () => {
  it('has the lines of crio status info, with the maps of ids', () => {
    const ids = [{ container_id: 0, host_id: 0, size: 4_294_967_295 }];
    assert.equal(
      infoLines({
        storage_driver: 'overlay',
        storage_image: '',
        storage_root: '/r',
        cgroup_driver: 'systemd',
        default_id_mappings: { uids: ids, gids: ids },
      }),
      'cgroup driver: systemd\nstorage driver: overlay\nstorage graph root: /r\nstorage image: \n' +
        'default GID mappings (format <container>:<host>:<size>):\n  0:0:4294967295\n' +
        'default UID mappings (format <container>:<host>:<size>):\n  0:0:4294967295\n',
    );
  });

  it('has the lines of crio status containers, with nothing that a terminal would obey', () => {
    assert.equal(
      containerLines({
        name: 'k8s_a_b',
        pid: 7,
        image: 'i',
        image_ref: 'f00',
        created_time: 5,
        labels: { a: '\x1b[2J' },
        annotations: {},
        crio_annotations: {},
        log_path: '/l',
        root: '/r',
        sandbox: 's',
        ip_addresses: ['10.0.0.1', 'fd00::1'],
        host_network: false,
      }),
      'name: k8s_a_b\npid: 7\nimage: i\nimage ref: f00\ncreated: 5\nlabels:\n  a: \\x1b[2J\nannotations:\n' +
        'CRI-O annotations:\nlog path: /l\ngraph root: /r\nsandbox: s\nips: 10.0.0.1, fd00::1\n',
    );
  });
});

describe('a page that the daemon takes long to show', () => {
  it('is waited for as long as --timeout says, and the error names it', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'berth-pages-'));
    const socket = join(directory, 'silent.sock');
    const server = createServer(() => {}).listen(socket);
    await new Promise((resolve) => server.once('listening', resolve));
    const error = await fetchPage(socket, '/debug/heap', 20).catch((cause: unknown) => cause);
    server.closeAllConnections();
    server.close();
    await rm(directory, { recursive: true });
    assert.equal(codeOf(error), 'DeadlineExceeded');
    assert.include(String(error), 'has not shown /debug/heap within 0.02 s; --timeout');
  });
});
