/** A SOCKS5 proxy (RFC 1928) with a name and a password (RFC 1929), which leads every name to this machine. */
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';

/** A running one. */
export interface SocksProxy {
  readonly port: number;
  /** `host:port` of everything asked. */
  readonly asked: string[];
  stop(): void;
}

/** Takes this name and this password, and names, no addresses. */
export async function startSocks(user: string, password: string): Promise<SocksProxy> {
  const asked: string[] = [];
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => {}));
    void serve(socket).catch(() => socket.destroy());
  });
  const serve = async (socket: Socket): Promise<void> => {
    const next = async (): Promise<Buffer> => ((await once(socket, 'data')) as [Buffer])[0];
    await next();
    socket.write(Buffer.from([5, 2]));
    const login = await next();
    const wanted = Buffer.concat([Buffer.from([1, user.length]), Buffer.from(user), Buffer.from([password.length])]);
    const right = login.equals(Buffer.concat([wanted, Buffer.from(password)]));
    socket.write(Buffer.from([1, right ? 0 : 1]));
    if (!right) return void socket.end();
    const request = await next();
    const nameEnd = 5 + (request[4] ?? 0);
    const port = request.readUInt16BE(nameEnd);
    asked.push(`${request.toString('latin1', 5, nameEnd)}:${port}`);
    const onward = connect(port, '127.0.0.1').on('error', () => socket.destroy());
    sockets.add(onward);
    await once(onward, 'connect');
    socket.write(Buffer.from([5, 0, 0, 1, 0, 0, 0, 0, 0, 0]));
    onward.pipe(socket).pipe(onward);
  };
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    asked,
    stop() {
      for (const each of sockets) each.destroy();
      server.close();
    },
  };
}
