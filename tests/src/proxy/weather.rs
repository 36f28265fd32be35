//! What happens to what is sent over a cable.

use std::time::Duration;

/// From whom to whom bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client, which opened the connection, to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

impl Direction {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::ToServer, Self::ToClient];
}

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They arrive.
    #[default]
    Passed,
    /// Each piece arrives up to so much later.
    Late(Duration),
    /// They wait, and so does their sender once all buffers are full.
    Held,
    /// They are taken, and never arrive.
    Swallowed,
}

/// What happens on a cable now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    pub(super) to_server: Flow,
    pub(super) to_client: Flow,
    /// Nobody gets through.
    pub(super) is_cut: bool,
    /// Connections of an earlier age are reset.
    pub(super) age: u64,
    /// Connections of an age before this one are swallowed for ever.
    pub(super) forgotten: u64,
}

impl Weather {
    /// What happens to a connection of this age.
    pub(super) fn flow(&self, direction: Direction, age: u64) -> Flow {
        match direction {
            _ if age < self.forgotten => Flow::Swallowed,
            Direction::ToServer => self.to_server,
            Direction::ToClient => self.to_client,
        }
    }

    /// Whether a connection of this age is reset.
    pub(super) fn breaks(&self, age: u64) -> bool {
        self.is_cut || (age < self.age && age >= self.forgotten)
    }

    pub(super) fn flow_mut(&mut self, direction: Direction) -> &mut Flow {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        }
    }

    /// Whether the greeting of a new connection gets through, which goes both ways.
    pub(super) fn lets_connect(&self) -> bool {
        Direction::BOTH.iter().all(|direction| !matches!(self.flow(*direction, self.age), Flow::Held | Flow::Swallowed))
    }
}
