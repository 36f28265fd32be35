"""A client of cabbage in plain grpcio: defers jobs, lists them, and waits for their results.

Usage:
    client.py HOST:PORT defer TASK [ARGS]    prints the id of the new job; ARGS is JSON text
    client.py HOST:PORT list [TASK]          prints a line of JSON for each job, newest first
    client.py HOST:PORT wait JOB             prints how the job ended; fails unless it succeeded
"""

import json
import sys
import uuid

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from cabbage.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc

CALL_SECONDS = 30
WAIT_SECONDS = 20


def defer(jobs, task, args="{}"):
    # The request id makes it safe to repeat a call whose answer was lost: the job is created once.
    request = job_service_pb2.DeferJobRequest(
        job=job_pb2.JobSpec(task=task, args=args.encode()), request_id=str(uuid.uuid4())
    )
    print(jobs.DeferJob(request, timeout=CALL_SECONDS).job_id)


def show_list(jobs, task=""):
    request = job_service_pb2.ListJobsRequest(task=task, include_args=True)
    while True:
        page = jobs.ListJobs(request, timeout=CALL_SECONDS)
        for job in page.jobs:
            state = job_pb2.JobState.Name(job.state)
            print(json.dumps({"id": job.id, "task": job.spec.task, "state": state, "args": job.spec.args.decode()}))
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def wait(jobs, job_id):
    request = job_service_pb2.WaitJobRequest(job_id=int(job_id), max_wait=Duration(seconds=WAIT_SECONDS))
    while not (answer := jobs.WaitJob(request, timeout=WAIT_SECONDS + CALL_SECONDS)).is_final:
        pass
    last = answer.job.last_attempt
    end = {"state": job_pb2.JobState.Name(answer.job.state), "attempts": answer.job.attempts}
    if last.result:
        end["result"] = json.loads(last.result)
    if last.HasField("failure"):
        end["failure"] = {"kind": last.failure.kind, "message": last.failure.message}
    print(json.dumps(end))
    if answer.job.state != job_pb2.JOB_STATE_SUCCEEDED:
        sys.exit(1)


def reason(error):
    """Why a call failed: every error of cabbage carries one ErrorInfo, whose reason never changes."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:
                info = ErrorInfo()
                if detail.Unpack(info):
                    return info.reason
    return error.code().name


def main():
    commands = {"defer": defer, "list": show_list, "wait": wait}
    if len(sys.argv) < 3 or sys.argv[2] not in commands:
        sys.exit(__doc__)
    with grpc.insecure_channel(sys.argv[1]) as channel:
        try:
            commands[sys.argv[2]](job_service_pb2_grpc.JobServiceStub(channel), *sys.argv[3:])
        except grpc.RpcError as error:
            sys.exit(f"{reason(error)}: {error.details()}")


if __name__ == "__main__":
    main()
