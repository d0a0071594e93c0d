import { assert } from 'chai';
import { parseDeviceTo } from './network.ts';

describe('the way to an address', () => {
  const line = (device: string, destination: string, mask: string, flags = '0001'): string =>
    `${device}\t${destination}\t00000000\t${flags}\t0\t0\t0\t${mask}\t0\t0\t0`;
  const table = [
    'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT',
    line('eth0', '00000000', '00000000', '0003'),
    line('cni0', '0000010A', '0000FFFF'),
    line('cali1', '0502010A', 'FFFFFFFF', '0005'),
    line('down', '0702010A', 'FFFFFFFF', '0000'),
    line('*', '0602010A', 'FFFFFFFF', '0205'),
    line('high', '000000C0', '000000FF'),
    '',
  ].join('\n');

  const cases: readonly (readonly [address: string, device: string | undefined])[] = [
    ['10.1.2.3', 'cni0'],
    ['10.1.2.5', 'cali1'],
    ['10.1.2.7', 'cni0'],
    ['10.1.2.6', 'cni0'],
    ['192.1.2.3', 'high'],
    ['10.2.0.1', undefined],
  ];
  for (const [address, device] of cases) {
    it(`${address} is ${device ?? 'the default route, which is none'}`, () => {
      assert.equal(parseDeviceTo(table, address, 'LE'), device);
    });
  }

  it('reads addresses as this machine prints them', () => {
    assert.equal(parseDeviceTo(['', line('cni0', '0A010000', 'FFFF0000')].join('\n'), '10.1.2.3', 'BE'), 'cni0');
    assert.equal(parseDeviceTo('', '10.1.2.3', 'LE'), undefined);
  });
});
