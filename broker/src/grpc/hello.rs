//! A worker's introduction, checked.

use cabbage_proto::v1;
use tonic::Status;
use uuid::Uuid;

use crate::core::{
    effect::LinkId,
    event::{Capacity, Hello, Resume},
};

use super::{
    MESSAGE_BYTES_MAX,
    check::{self, Invalid},
    results::lease,
    status::Reason,
};

/// The version of the protocol that this broker speaks.
pub(super) const PROTOCOL: u32 = 1;

/// Queues, and tasks, of one worker.
const QUEUES_MAX: usize = 1_000;
const TASKS_MAX: usize = 1_000;

/// Abilities that a worker may name.
const CAPABILITIES_MAX: usize = 64;

/// Leases that a worker may hold when it resumes.
const LEASES_MAX: usize = JOBS_MAX as usize;

/// The largest window of credit, in jobs.
const JOBS_MAX: u32 = 100_000;

/// The smallest frame that a worker must be able to receive: one job at all its limits.
const RECEIVE_BYTES_MIN: usize = 512 << 10;

/// A worker that was checked, and what its stream needs to know.
#[derive(Debug)]
pub(super) struct Introduced {
    pub(super) hello: Hello,
    /// The largest frame that it can receive.
    pub(super) receive_bytes_max: usize,
    pub(super) worker_name: String,
    pub(super) sdk: String,
}

/// Checks the first frame of a stream.
pub(super) fn introduced(link: LinkId, hello: v1::Hello) -> Result<Introduced, Status> {
    if !(hello.min_protocol..=hello.max_protocol).contains(&PROTOCOL) {
        let text = format!(
            "this broker speaks protocol {PROTOCOL}; the worker speaks {} to {}: use an SDK of the broker's version",
            hello.min_protocol, hello.max_protocol
        );
        let supported = [("min_protocol", PROTOCOL.to_string()), ("max_protocol", PROTOCOL.to_string())];
        return Err(Reason::ProtocolUnsupported.status_with(text, supported));
    }
    Ok(checked(link, hello).map_err(|invalid| invalid.within("hello"))?)
}

fn checked(link: LinkId, hello: v1::Hello) -> Result<Introduced, Invalid> {
    check::count("capabilities", hello.capabilities.len(), CAPABILITIES_MAX)?;
    check::text("instance_id", &hello.instance_id, 64)?;
    if hello.instance_id.is_empty() {
        return Err(Invalid::new("instance_id", "is empty; give a UUID that names the process"));
    }
    check::text("worker_name", &hello.worker_name, 128)?;
    check::text("sdk", &hello.sdk, 128)?;
    check::text("language", &hello.language, 64)?;
    check::count("labels", hello.labels.len(), check::LABELS_MAX)?;
    for (key, value) in &hello.labels {
        check::text("labels", key, check::LABEL_KEY_BYTES_MAX)?;
        check::text("labels", value, check::LABEL_KEY_BYTES_MAX)?;
    }
    check::count("queues", hello.queues.len(), QUEUES_MAX)?;
    hello.queues.iter().try_for_each(|queue| check::name("queues", queue))?;
    check::count("tasks", hello.tasks.len(), TASKS_MAX)?;
    if hello.tasks.is_empty() {
        return Err(Invalid::new("tasks", "is empty; name the tasks that have handlers"));
    }
    hello.tasks.iter().try_for_each(|task| check::name("tasks.task", &task.task))?;
    let receive_bytes_max = match hello.max_receive_bytes as usize {
        0 => MESSAGE_BYTES_MAX,
        bytes if bytes < RECEIVE_BYTES_MIN => {
            let problem = format!("is {bytes}; a worker must be able to receive {RECEIVE_BYTES_MIN} bytes");
            return Err(Invalid::new("max_receive_bytes", problem));
        }
        bytes => bytes.min(MESSAGE_BYTES_MAX),
    };
    let capacity = hello.capacity.map(capacity).transpose()?.unwrap_or_default();
    let resume = hello.resume.as_ref().map(resume).transpose().map_err(|invalid| invalid.within("resume"))?;
    let hello_event = Hello {
        link,
        new_session: Uuid::now_v7(),
        new_secret: Uuid::new_v4(),
        queues: hello.queues.into_iter().map(Into::into).collect(),
        tasks: hello.tasks.into_iter().map(|task| (task.task.into(), task.max_concurrent)).collect(),
        capacity,
        wants_caught_up: hello.capabilities.iter().any(|capability| capability == "caught-up"),
        resume,
    };
    Ok(Introduced { hello: hello_event, receive_bytes_max, worker_name: hello.worker_name, sdk: hello.sdk })
}

/// A window of credit.
pub(super) fn capacity(capacity: v1::Capacity) -> Result<Capacity, Invalid> {
    let v1::Capacity { revision, max_jobs, max_bytes, paused } = capacity;
    if max_jobs > JOBS_MAX {
        return Err(Invalid::new("capacity.max_jobs", format!("is {max_jobs}; the limit is {JOBS_MAX}: ask for less")));
    }
    Ok(Capacity { revision, max_jobs, max_bytes, paused })
}

fn resume(resume: &v1::Resume) -> Result<Resume, Invalid> {
    check::count("lease_tokens", resume.lease_tokens.len(), LEASES_MAX)?;
    let lease = |token: &bytes::Bytes| {
        lease(token).ok_or_else(|| Invalid::new("lease_tokens", "has what is no token; give them back as they came"))
    };
    Ok(Resume {
        session: check::uuid("session_id", &resume.session_id)?,
        secret: check::resume_token("resume_token", &resume.resume_token)?,
        leases: resume.lease_tokens.iter().map(lease).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> v1::Hello {
        v1::Hello {
            min_protocol: 1,
            max_protocol: 1,
            instance_id: "one".into(),
            tasks: vec![v1::TaskRegistration { task: "send".into(), max_concurrent: 0 }],
            ..v1::Hello::default()
        }
    }

    fn refused(change: impl FnOnce(&mut v1::Hello)) -> String {
        let mut hello = hello();
        change(&mut hello);
        introduced(LinkId(1), hello).map_or_else(|status| status.message().to_owned(), |_| String::new())
    }

    #[test]
    fn a_plain_worker_is_welcome() {
        assert_eq!(refused(|_| {}), "");
    }

    #[test]
    fn each_limit_names_its_field() {
        assert!(refused(|hello| hello.min_protocol = 2).contains("protocol 1"));
        assert!(refused(|hello| hello.tasks.clear()).starts_with("hello.tasks"));
        assert!(refused(|hello| hello.instance_id.clear()).starts_with("hello.instance_id"));
        assert!(refused(|hello| hello.max_receive_bytes = 1_000).starts_with("hello.max_receive_bytes"));
        assert!(refused(|hello| hello.queues = vec![String::new()]).starts_with("hello.queues"));
        let window = v1::Capacity { max_jobs: JOBS_MAX + 1, ..v1::Capacity::default() };
        assert!(refused(|hello| hello.capacity = Some(window)).starts_with("hello.capacity.max_jobs"));
        let resume = v1::Resume { session_id: "x".into(), ..v1::Resume::default() };
        assert!(refused(|hello| hello.resume = Some(resume)).starts_with("hello.resume.session_id"));
    }
}
