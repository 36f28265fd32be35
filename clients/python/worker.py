"""A worker of cabbage in plain grpcio: one stream, a few threads, and a drain on SIGTERM.

Usage: worker.py HOST:PORT

Ends with 0 after a drain, and with 75 where the broker or the stream went away: start it again.
"""

import json
import queue
import signal
import sys
import threading
import time
import traceback
import uuid
from concurrent.futures import ThreadPoolExecutor

import grpc

from cabbage.v1 import job_pb2, worker_service_pb2 as pb, worker_service_pb2_grpc

THREADS = 4
START_AGAIN = 75


def add(args):
    return args["a"] + args["b"]


def nap(args):
    time.sleep(args["seconds"])


TASKS = {"python.add": add, "python.nap": nap}


def run(task, delivery):
    """Runs one job. Whatever its handler raises is a failed attempt; the job's policy says what follows."""
    try:
        result = TASKS[task](json.loads(delivery.args or b"{}"))
        encoded = b"" if result is None else json.dumps(result, allow_nan=False).encode()
        return pb.JobResult(lease_token=delivery.lease_token, succeeded=pb.Succeeded(result=encoded))
    except Exception as error:
        failure = job_pb2.Failure(kind=type(error).__name__, message=str(error), trace=traceback.format_exc())
        return pb.JobResult(lease_token=delivery.lease_token, failed=pb.Failed(failure=failure))


class Worker:
    """One stream from its Hello to its end. Only the reader, `work`, changes what is counted here."""

    def __init__(self):
        self.outgoing = queue.SimpleQueue()
        self.names = {}
        self.received_seq = 0
        self.delivered = 0
        self.recorded = 0
        self.drained = False
        self.broker_leaves = False
        self.over = threading.Event()

    def requests(self):
        """What is sent, in order. Frames are counted here, by the one thread that sends them."""
        yield pb.WorkRequest(hello=pb.Hello(
            min_protocol=1, max_protocol=1, instance_id=str(uuid.uuid4()), sdk="plain grpcio", language="python",
            tasks=[pb.TaskRegistration(task=task) for task in TASKS],
            capacity=pb.Capacity(revision=1, max_jobs=THREADS),
        ))
        results_seq = 0
        while (item := self.outgoing.get()) is not None:
            if isinstance(item, pb.JobResult):
                results_seq += 1
                item = {"results": pb.JobResults(results_seq=results_seq, results=[item])}
            yield pb.WorkRequest(received_seq=self.received_seq, **item)

    def drain(self, *_signal):
        self.outgoing.put({"drain": pb.Drain(reason="the worker stops")})

    def beat(self, stream, welcome):
        """Shows that the worker lives, and gives a stream up on which the broker no longer does."""
        number = 0
        while not self.over.wait(welcome.beat.ToNanoseconds() / 1e9):
            number += 1
            self.outgoing.put({"beat": pb.Beat(number=number, in_flight=self.delivered - self.recorded)})
            if time.monotonic() - self.heard > welcome.watchdog.ToNanoseconds() / 1e9:
                stream.cancel()

    def work(self, stub, pool):
        """Reads the stream to its end, and never waits for a handler."""
        stream = stub.Work(self.requests())
        for response in stream:
            self.heard = time.monotonic()
            frame = response.WhichOneof("frame")
            if frame == "welcome":
                print("ready", flush=True)
                threading.Thread(target=self.beat, args=(stream, response.welcome), daemon=True).start()
            elif frame == "jobs":
                self.received_seq = response.jobs.seq
                self.names.update((entry.number, entry.name) for entry in response.jobs.dictionary)
                for delivery in response.jobs.deliveries:
                    self.delivered += 1
                    job = pool.submit(run, self.names[delivery.task], delivery)
                    job.add_done_callback(lambda job: self.outgoing.put(job.result()))
            elif frame == "settle_ack":
                # Each frame of results held one of them, so frames count results.
                self.recorded = max(self.recorded, response.settle_ack.recorded_through)
                for result in response.settle_ack.exceptions:
                    print("not recorded:", pb.SettleCode.Name(result.code), file=sys.stderr)
            elif frame == "drain_ack":
                self.drained = True
            elif frame == "broker_drain":
                self.broker_leaves = True
                self.drain()
            elif frame == "goodbye":
                print("goodbye:", response.goodbye.status.message, file=sys.stderr)
            if self.drained and self.recorded == self.delivered:
                self.outgoing.put(None)


def main(address):
    worker = Worker()
    signal.signal(signal.SIGTERM, worker.drain)
    signal.signal(signal.SIGINT, worker.drain)
    try:
        with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(THREADS) as pool:
            worker.work(worker_service_pb2_grpc.WorkerServiceStub(channel), pool)
    except grpc.RpcError as error:
        print(f"the stream ended: {error.details()}", file=sys.stderr)
    finally:
        worker.over.set()
        worker.outgoing.put(None)
    return 0 if worker.drained and not worker.broker_leaves else START_AGAIN


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
