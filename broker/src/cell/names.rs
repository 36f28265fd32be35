//! The names of queues and tasks by number, for whoever writes to workers.

use std::sync::{Arc, PoisonError, RwLock};

use crate::core::{
    state::State,
    types::{QueueNo, TaskNo},
};

/// The names that are committed. Read once for each name and stream, written once for each new name.
#[derive(Debug, Default)]
pub struct Names {
    lists: RwLock<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    queues: Vec<Arc<str>>,
    tasks: Vec<Arc<str>>,
}

impl Names {
    pub(super) fn of(state: &State) -> Self {
        Self { lists: RwLock::new(Lists { queues: state.queues.clone(), tasks: state.tasks.clone() }) }
    }

    /// Takes in what a batch named. Numbers have no gaps.
    pub(super) fn extend(&self, queues: &[(QueueNo, Arc<str>)], tasks: &[(TaskNo, Arc<str>)]) {
        if queues.is_empty() && tasks.is_empty() {
            return;
        }
        let mut lists = self.lists.write().unwrap_or_else(PoisonError::into_inner);
        lists.queues.extend(queues.iter().map(|(_, name)| name.clone()));
        lists.tasks.extend(tasks.iter().map(|(_, name)| name.clone()));
    }

    /// How many queues have a name. Their numbers begin at 0.
    pub fn queue_count(&self) -> u32 {
        self.lists.read().unwrap_or_else(PoisonError::into_inner).queues.len() as u32
    }

    /// The number of a queue.
    pub fn queue_no(&self, name: &str) -> Option<QueueNo> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        lists.queues.iter().position(|queue| **queue == *name).map(|at| QueueNo(at as u32))
    }

    /// The queues whose names come after this one, by name, at most `limit`; and whether there are more.
    pub fn queues_after(&self, name: &str, limit: usize) -> (Vec<(QueueNo, Arc<str>)>, bool) {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        let all = (0..).map(QueueNo).zip(&lists.queues).filter(|(_, queue)| ***queue > *name);
        let mut queues: Vec<_> = all.map(|(no, queue)| (no, queue.clone())).collect();
        drop(lists);
        queues.sort_unstable_by(|(_, one), (_, other)| one.cmp(other));
        let more = queues.len() > limit;
        queues.truncate(limit);
        (queues, more)
    }

    /// The name of a queue; empty if it is not known.
    pub fn queue(&self, no: QueueNo) -> Arc<str> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        lists.queues.get(no.0 as usize).cloned().unwrap_or_else(|| "".into())
    }

    /// The name of a task; empty if it is not known.
    pub fn task(&self, no: TaskNo) -> Arc<str> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        lists.tasks.get(no.0 as usize).cloned().unwrap_or_else(|| "".into())
    }
}
