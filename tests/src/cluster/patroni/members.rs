//! What Patroni says of all servers.

use std::net::SocketAddr;

use serde::Deserialize;

use crate::cluster::http::ask;

/// The answer to `GET /cluster`.
#[derive(Debug, Deserialize)]
pub(super) struct Members {
    members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
struct Member {
    name: String,
    role: String,
    state: String,
    #[serde(default)]
    timeline: u64,
}

impl Members {
    /// Asks one node. `None`: it does not answer, or knows nothing yet.
    pub(super) async fn known_to(patroni: SocketAddr) -> Option<Self> {
        let answer = ask(patroni, "GET /cluster HTTP/1.0\r\n\r\n").await.ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    /// The number of the primary, if all servers run on its timeline and one of them is synchronous.
    pub(super) fn level(&self, nodes: usize) -> Option<usize> {
        let primary = self.members.iter().find(|member| member.role == "leader")?;
        let is_level = |member: &Member| {
            ["running", "streaming"].contains(&member.state.as_str()) && member.timeline == primary.timeline
        };
        let is_safe = self.members.iter().any(|member| member.role == "sync_standby");
        let all = self.members.iter().filter(|member| is_level(member)).count();
        (is_safe && all == nodes).then(|| primary.name.strip_prefix("node-")?.parse().ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(members: &[(&str, &str, u64)]) -> Option<usize> {
        let member = |(at, (role, state, timeline)): (usize, &(&str, &str, u64))| Member {
            name: format!("node-{at}"),
            role: (*role).to_owned(),
            state: (*state).to_owned(),
            timeline: *timeline,
        };
        Members { members: members.iter().enumerate().map(member).collect() }.level(3)
    }

    #[test]
    fn servers_are_level_once_all_follow_one_primary_and_one_is_synchronous() {
        let (leader, sync, other) =
            (("leader", "running", 2), ("sync_standby", "running", 2), ("replica", "running", 2));
        assert_eq!(level(&[other, leader, sync]), Some(1));
        assert_eq!(level(&[other, leader, other]), None, "none is synchronous");
        assert_eq!(level(&[leader, sync, ("replica", "running", 1)]), None, "one is left behind");
        assert_eq!(level(&[leader, sync, ("replica", "starting", 2)]), None, "one is not there yet");
        assert_eq!(level(&[leader, sync]), None, "one is away");
        assert_eq!(level(&[other, sync, other]), None, "nobody leads");
    }
}
