/** Probes that ask by gRPC's health protocol. */
import { Server, ServerCredentials } from '@grpc/grpc-js';
import { assert } from 'chai';
import { ground } from './shared.ts';
import { isReady, statusOf, Tenant } from './tenant.ts';

/** Values of grpc.health.v1.HealthCheckResponse.ServingStatus. */
const SERVING = 1;
const NOT_SERVING = 2;
const PORT = 5000;

/** A health service of gRPC's, which answers for each service as it is told. */
class Health {
  readonly states = new Map([
    ['ready', SERVING],
    ['alive', SERVING],
  ]);
  readonly #server = new Server();

  /** Listens at `address`; resolves to the port. */
  async listen(address: string): Promise<number> {
    const check = {
      path: '/grpc.health.v1.Health/Check',
      requestStream: false,
      responseStream: false,
      requestSerialize: (value: Buffer) => value,
      requestDeserialize: (value: Buffer) => value,
      responseSerialize: (value: Buffer) => value,
      responseDeserialize: (value: Buffer) => value,
    };
    this.#server.addService(
      { check },
      {
        check: (call: { request: Buffer }, answer: (error: null, value: Buffer) => void) => {
          // Field 1 of either message: a short string, and a small number.
          const service = call.request.subarray(2).toString();
          answer(null, Buffer.from([0x08, this.states.get(service) ?? 0]));
        },
      },
    );
    return await new Promise((resolve, reject) => {
      this.#server.bindAsync(`${address}:0`, ServerCredentials.createInsecure(), (error, port) =>
        error === null ? resolve(port) : reject(error),
      );
    });
  }

  stop(): void {
    this.#server.forceShutdown();
  }
}

describe('pods under a kubelet: probes by gRPC', function () {
  this.timeout(180_000);
  const health = new Health();
  let tenant: Tenant;
  before(async () => {
    const { cluster, images } = ground();
    tenant = await Tenant.of(cluster, 'probes', images.box);
    const port = await health.listen(cluster.address);
    const grpc = (service: string) => ({ grpc: { port: PORT, service }, periodSeconds: 1, timeoutSeconds: 10 });
    // The pod passes each connection on to the service.
    const relay = tenant.box(`exec nc -ll -p ${PORT} -e nc ${cluster.address} ${port}`, {
      startupProbe: { ...grpc('alive'), failureThreshold: 60 },
      readinessProbe: { ...grpc('ready'), failureThreshold: 1 },
      livenessProbe: { ...grpc('alive'), failureThreshold: 2 },
    });
    await tenant.ready({ name: 'grpc', spec: { containers: [relay] } });
  });
  after(async () => {
    await tenant.leave();
    health.stop();
  });

  it('take a pod out of service, and back, as its service says', async () => {
    health.states.set('ready', NOT_SERVING);
    const pod = await tenant.until('grpc', (each) => !isReady(each), 'not ready');
    health.states.set('ready', SERVING);
    assert.equal(statusOf(pod)?.restartCount, 0);
    await tenant.until('grpc', isReady, 'ready again');
  });

  it('have a container restarted that no longer lives', async () => {
    health.states.set('alive', NOT_SERVING);
    await tenant.until('grpc', (pod) => statusOf(pod)?.restartCount === 1, 'restarted');
    health.states.set('alive', SERVING);
    const pod = await tenant.until('grpc', isReady, 'ready after the restart');
    assert.equal(statusOf(pod)?.lastState?.terminated?.exitCode, 137);
  });
});
