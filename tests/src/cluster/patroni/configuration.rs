//! What Patroni and HAProxy are told.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{ROLE, node::Node};

/// What the configuration of each server has below that of Patroni, which leaves `synchronous_standby_names` out on a
/// server that was demoted, and puts it back a moment before it promotes it again. The server may be a primary sooner
/// than its checkpointer has read that, and would acknowledge alone.
pub(super) const ALWAYS: &str = "synchronous_standby_names = '*'\n";

/// What holds for all nodes.
#[derive(Debug)]
pub(super) struct Configuration {
    pub(super) etcd: SocketAddr,
    /// The file with [`ALWAYS`].
    pub(super) always: PathBuf,
    pub(super) fsync: bool,
    pub(super) connections: u32,
}

impl Configuration {
    /// The file of one node: YAML, of which JSON is a part.
    pub(super) fn of_node(&self, node: &Node, folder: &Path, programs: &str) -> Value {
        let on = |is_on: bool| if is_on { "on" } else { "off" };
        json!({
            "scope": "cabbage",
            "name": node.name(),
            "restapi": { "listen": node.patroni.to_string(), "connect_address": node.patroni.to_string() },
            // The old protocol. By the new one, a Patroni before 3.0.3 that wakes up takes the lease back from whoever
            // has it by now: the primary that was promoted meanwhile is demoted, and what it acknowledged is gone.
            "etcd": { "host": self.etcd.to_string() },
            "bootstrap": {
                "dcs": {
                    // The shortest lease that Patroni has.
                    "ttl": 20,
                    "loop_wait": 1,
                    "retry_timeout": 3,
                    "synchronous_mode": true,
                    // Without a second server that takes part, nothing is acknowledged.
                    "synchronous_mode_strict": true,
                    "postgresql": {
                        "use_pg_rewind": true,
                        "use_slots": true,
                        "parameters": {
                            "max_connections": self.connections,
                            "wal_keep_size": "512MB",
                            // A server that has lost its primary tries the next one soon.
                            "wal_retrieve_retry_interval": "500ms",
                            "fsync": on(self.fsync),
                        },
                    },
                },
                "initdb": [{ "encoding": "UTF8" }, { "locale": "C.UTF-8" }, { "auth": "trust" }],
            },
            "postgresql": {
                "listen": node.postgres.to_string(),
                "connect_address": node.postgres.to_string(),
                "data_dir": node.data(),
                "bin_dir": programs,
                "pgpass": folder.join("pgpass"),
                "pg_hba": [
                    "local all all trust",
                    "host all all 127.0.0.1/32 trust",
                    "host replication all 127.0.0.1/32 trust",
                ],
                "authentication": {
                    "superuser": { "username": ROLE },
                    "replication": { "username": "replicator" },
                },
                "custom_conf": self.always,
                "parameters": { "unix_socket_directories": folder },
            },
        })
    }
}

/// HAProxy's file: one address, behind it whoever Patroni says is the primary, and no session with one that is not.
pub(super) fn haproxy(address: SocketAddr, nodes: &[Node]) -> String {
    let servers: Vec<String> = nodes
        .iter()
        .map(|node| format!("  server {} {} check port {}\n", node.name(), node.postgres, node.patroni.port()))
        .collect();
    format!(
        "defaults\n  mode tcp\n  timeout connect 2s\n  timeout client 1h\n  timeout server 1h\n\
         listen primary\n  bind {address}\n  option httpchk GET /primary\n  http-check expect status 200\n  \
         default-server inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions\n{}",
        servers.concat()
    )
}
