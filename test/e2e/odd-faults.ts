/** What goes wrong at an odd registry, once or for ever. */
import type { ServerResponse } from 'node:http';

/** One thing that goes wrong. */
export interface Fault {
  readonly where: 'manifest' | 'config' | 'layer' | 'token';
  /** How many requests it befalls; those after them are answered as ever. */
  readonly times: number;
  readonly what: FaultKind;
}

/** What happens to one answer. */
export type FaultKind =
  | { readonly kind: 'status'; readonly status: number; readonly headers: Readonly<Record<string, string>> }
  /** The connection ends: before the answer, or after some of it, of which the length was told. */
  | { readonly kind: 'reset' }
  | { readonly kind: 'cut'; readonly afterBytes: number }
  /** It ends as if that were all. */
  | { readonly kind: 'end early'; readonly afterBytes: number }
  /** Nothing more comes: before the answer, or after some of it. */
  | { readonly kind: 'silence' }
  | { readonly kind: 'stall'; readonly afterBytes: number }
  | { readonly kind: 'trickle' }
  | { readonly kind: 'flipped bit' }
  | { readonly kind: 'endless' }
  /** Something else in its place. */
  | { readonly kind: 'page' }
  | { readonly kind: 'nothing' }
  | { readonly kind: 'no HTTP' };

/** What would be said without the fault. */
export interface RightAnswer {
  readonly body: Buffer;
  readonly contentType: string;
}

/** Answers by the fault. */
export function misbehave({ what }: Fault, response: ServerResponse, { body, contentType }: RightAnswer): void {
  const headers = contentType === '' ? {} : { 'content-type': contentType };
  switch (what.kind) {
    case 'status':
      response.writeHead(what.status, { ...what.headers, 'content-type': 'application/json' });
      return void response.end('{"errors":[{"code":"ODD","message":"as it was told"}]}');
    case 'reset':
      return void response.socket?.resetAndDestroy();
    case 'cut':
      response.writeHead(200, { ...headers, 'content-length': body.length });
      return void response.write(body.subarray(0, what.afterBytes), () => response.socket?.destroy());
    case 'end early':
      response.writeHead(200, headers);
      return void response.end(body.subarray(0, what.afterBytes));
    case 'silence':
      return;
    case 'stall':
      response.writeHead(200, { ...headers, 'content-length': body.length });
      return void response.write(body.subarray(0, what.afterBytes));
    case 'trickle':
      response.writeHead(200, { ...headers, 'content-length': body.length });
      return trickle(response, body);
    case 'flipped bit': {
      const wrong = Buffer.from(body);
      wrong[wrong.length >> 1] = (wrong[wrong.length >> 1] ?? 0) ^ 1;
      response.writeHead(200, { ...headers, 'content-length': wrong.length });
      return void response.end(wrong);
    }
    case 'endless':
      response.writeHead(200, headers);
      response.write(body);
      return endless(response);
    case 'page':
      response.writeHead(200, { 'content-type': 'text/html' });
      return void response.end('<html><body>Please log in to use the network.</body></html>');
    case 'nothing':
      response.writeHead(200, { ...headers, 'content-length': 0 });
      return void response.end();
    case 'no HTTP':
      return void response.socket?.end('SSH-2.0-OpenSSH_9.2\n\n');
  }
}

function trickle(response: ServerResponse, body: Buffer): void {
  let at = 0;
  const timer = setInterval(() => {
    if (response.destroyed || at >= body.length) clearInterval(timer);
    else response.write(body.subarray(at, ++at));
  }, 20);
}

function endless(response: ServerResponse): void {
  const more = Buffer.alloc(65_536, 0x20);
  const push = (): void => {
    while (!response.destroyed && response.write(more));
  };
  response.on('drain', push);
  push();
}
