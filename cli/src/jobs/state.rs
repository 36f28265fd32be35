//! The words for what a job is and does, as the contract spells them.

use cabbage_proto::v1::{JobState, LockMode, QueueingConflict, Verdict, WaitingFor};
use clap::ValueEnum;

/// A state, to filter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StateArg {
    Scheduled,
    Waiting,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl From<StateArg> for JobState {
    fn from(state: StateArg) -> Self {
        match state {
            StateArg::Scheduled => Self::Scheduled,
            StateArg::Waiting => Self::Waiting,
            StateArg::Running => Self::Running,
            StateArg::Succeeded => Self::Succeeded,
            StateArg::Failed => Self::Failed,
            StateArg::Cancelled => Self::Cancelled,
        }
    }
}

pub(crate) fn word(state: JobState) -> &'static str {
    match state {
        JobState::Unspecified => "unknown",
        JobState::Scheduled => "scheduled",
        JobState::Waiting => "waiting",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
    }
}

pub(crate) fn is_final(state: JobState) -> bool {
    matches!(state, JobState::Succeeded | JobState::Failed | JobState::Cancelled)
}

/// What a waiting job waits for; `None`: it does not wait, or the broker cannot tell.
pub(crate) fn waiting_word(waiting_for: WaitingFor) -> Option<&'static str> {
    match waiting_for {
        WaitingFor::Unspecified => None,
        WaitingFor::Ready => Some("ready"),
        WaitingFor::Blocked => Some("blocked"),
        WaitingFor::Paused => Some("paused"),
        WaitingFor::Unserved => Some("unserved"),
        WaitingFor::Limited => Some("limited"),
    }
}

/// The same as a sentence, with what to do about it.
pub(crate) fn waiting_sentence(waiting_for: WaitingFor) -> Option<&'static str> {
    match waiting_for {
        WaitingFor::Unspecified => None,
        WaitingFor::Ready => Some("it starts in the next moment"),
        WaitingFor::Blocked => Some("another job with the same lock runs or goes first"),
        WaitingFor::Paused => Some("its queue is paused"),
        WaitingFor::Unserved => Some("no connected worker has registered its task for its queue: start one"),
        WaitingFor::Limited => Some("every worker that serves it is full"),
    }
}

pub(crate) fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Unspecified => "unknown",
        Verdict::Succeeded => "succeeded",
        Verdict::Failed => "failed",
        Verdict::Cancelled => "cancelled",
        Verdict::Retried => "retried",
        Verdict::Snoozed => "snoozed",
        Verdict::Released => "released",
        Verdict::Crashed => "crashed",
        Verdict::Reopened => "reopened",
    }
}

pub(crate) fn lock_mode_word(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Unspecified | LockMode::FirstStartable => "first-startable",
        LockMode::Strict => "strict",
    }
}

pub(crate) fn conflict_word(conflict: QueueingConflict) -> &'static str {
    match conflict {
        QueueingConflict::Unspecified | QueueingConflict::Reject => "reject",
        QueueingConflict::Reschedule => "reschedule",
        QueueingConflict::Replace => "replace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_filtered_by_the_words_that_are_shown() {
        for state in StateArg::value_variants() {
            let shown = word(JobState::from(*state));
            assert_eq!(state.to_possible_value().unwrap().get_name(), shown);
        }
    }
}
