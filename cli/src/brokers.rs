//! Where the brokers of the cell are, and calls to them.

use std::{fmt, str::FromStr, time::Duration};

use cabbage_broker::args::LISTEN_DEFAULT;
use cabbage_proto::v1::{
    admin_service_client::AdminServiceClient, job_service_client::JobServiceClient,
    queue_service_client::QueueServiceClient,
};
use clap::Args;
use tokio::time::Instant;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    exit::{Exit, Failure, Outcome},
    refusal::{self, Effect},
    time::parse_duration,
};

/// How long to wait for a connection to one broker.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to wait before the addresses are tried again, while a broker takes over.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// The metadata key by which a caller says who it is.
const ACTOR_KEY: &str = "cabbage-actor";
/// The longest such name, as brokers take it.
const ACTOR_BYTES_MAX: usize = 128;
/// The largest answer that is read: a page of 1,000 jobs, each with the longest arguments and result.
const ANSWER_BYTES_MAX: usize = 640 * 1024 * 1024;

/// Which brokers to call.
#[derive(Args, Clone, Debug)]
pub(crate) struct BrokerArgs {
    /// The address of a broker; several, separated by commas, are tried in turn
    #[arg(
        long = "broker",
        env = "CABBAGE_BROKER",
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7733",
        help_heading = "Connection"
    )]
    addresses: Vec<Address>,
    /// How long a call may take in all, such as 5s
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = parse_duration, help_heading = "Connection")]
    call_timeout: Duration,
    /// Who asks, for the record; without it USER, LOGNAME, or the address that the call comes from
    #[arg(long, env = "CABBAGE_ACTOR", value_name = "NAME", value_parser = parse_actor, help_heading = "Connection")]
    actor: Option<String>,
}

/// The address of a broker, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address(String);

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if scheme == "https" {
            return Err("TLS is not supported by this command yet; use http:// over a trusted network".to_owned());
        }
        if scheme != "http" || rest.is_empty() || rest.contains('/') {
            return Err("an address looks like http://127.0.0.1:7733".to_owned());
        }
        let address = format!("http://{rest}");
        let endpoint = Endpoint::from_shared(address.clone()).map_err(|error| error.to_string())?;
        if endpoint.uri().port_u16().is_none() {
            return Err(format!("the port is missing; a broker listens on {} by default", LISTEN_DEFAULT.port()));
        }
        Ok(Self(address))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl BrokerArgs {
    /// One broker, with the usual patience.
    pub(crate) fn single(address: Address) -> Self {
        Self { addresses: vec![address], call_timeout: Duration::from_secs(15), actor: None }
    }

    pub(crate) fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The same, with another time for calls.
    pub(crate) fn with_call_timeout(&self, call_timeout: Duration) -> Self {
        Self { call_timeout, ..self.clone() }
    }

    /// A message that says who sends it.
    pub(crate) fn signed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(actor) = self.actor().and_then(|actor| actor.parse().ok()) {
            request.metadata_mut().insert(ACTOR_KEY, actor);
        }
        request
    }

    /// Who asks; `None`: nobody has a name here, and the broker takes the address.
    pub(crate) fn actor(&self) -> Option<String> {
        let named = |name: &&str| std::env::var(name).ok().and_then(|user| parse_actor(&user).ok());
        self.actor.clone().or_else(|| ["USER", "LOGNAME"].iter().find_map(named))
    }

    /// Makes a call: at the first broker that serves it, again while brokers say that another one will in a moment.
    ///
    /// A call that changes something must carry a request id, so that it may be repeated (C2).
    pub(crate) async fn call<T, F>(&self, doing: &str, effect: Effect, make: F) -> Outcome<T>
    where
        F: AsyncFn(Channel) -> Result<Response<T>, Status>,
    {
        self.ask(doing, effect, make).await?.map_err(|status| refusal::failure(doing, &status, effect))
    }

    /// The same for a caller who has his own view of refusals: what a broker says no to is no failure yet.
    pub(crate) async fn ask<T, F>(&self, doing: &str, effect: Effect, make: F) -> Outcome<Result<T, Status>>
    where
        F: AsyncFn(Channel) -> Result<Response<T>, Status>,
    {
        let deadline = Instant::now() + self.call_timeout;
        // Set once a call may have been done without our hearing of it.
        let mut doubt: Option<Status> = None;
        let mut told: Option<Status> = None;
        loop {
            let mut silent = Vec::new();
            for address in &self.addresses {
                let channel = match address.connect().await {
                    Ok(channel) => channel,
                    Err(error) => {
                        silent.push(format!("{address}: {error}"));
                        continue;
                    }
                };
                let answer = tokio::time::timeout_at(deadline, make(channel)).await;
                match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
                    Ok(response) => return Ok(Ok(response.into_inner())),
                    Err(status) if is_passing(&status) => {
                        if refusal::exit(&status, effect) == Exit::Unknown {
                            doubt = Some(status);
                        } else {
                            told = Some(status);
                        }
                    }
                    Err(status) => return Ok(Err(status)),
                }
            }
            let nobody_there = silent.len() == self.addresses.len();
            if Instant::now() + ROUND_PAUSE < deadline && (!nobody_there || doubt.is_some() || told.is_some()) {
                tokio::time::sleep(ROUND_PAUSE).await;
                continue;
            }
            return match doubt.or(told) {
                Some(status) => Ok(Err(status)),
                None => Err(nobody(&format!("{doing}: no broker can be reached"), &silent)),
            };
        }
    }
}

impl Address {
    async fn connect(&self) -> Result<Channel, String> {
        let endpoint = Endpoint::from_shared(self.0.clone()).expect("it was checked when it was parsed");
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("cabbage-cli/", env!("CARGO_PKG_VERSION")))
            .expect("a name and a version are a valid header");
        endpoint.connect().await.map_err(|error| refusal::root(&error))
    }

    /// Host and port, for a plain connection.
    pub(crate) fn authority(&self) -> &str {
        self.0.trim_start_matches("http://")
    }
}

/// A client of the service of jobs, without the usual limit of 4 MiB on answers.
pub(crate) fn job_service(channel: Channel) -> JobServiceClient<Channel> {
    JobServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// A client of the service of queues.
pub(crate) fn queue_service(channel: Channel) -> QueueServiceClient<Channel> {
    QueueServiceClient::new(channel)
}

/// A client of the service for operators.
pub(crate) fn admin_service(channel: Channel) -> AdminServiceClient<Channel> {
    AdminServiceClient::new(channel)
}

/// A name that a header can carry.
fn parse_actor(name: &str) -> Result<String, String> {
    if name.is_empty() || !name.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        return Err("a name for the record has letters, digits and punctuation of ASCII".to_owned());
    }
    if name.len() > ACTOR_BYTES_MAX {
        return Err(format!("it has {} bytes; the limit is {ACTOR_BYTES_MAX}: make it shorter", name.len()));
    }
    Ok(name.to_owned())
}

/// Another broker, or the same one in a moment, may serve the same call.
fn is_passing(status: &Status) -> bool {
    use tonic::Code::{Cancelled, Unavailable, Unknown};
    match refusal::reason(status) {
        Some(_) => status.code() == Unavailable,
        // A peer's GOAWAY and a cut connection come as any of these.
        None => matches!(status.code(), Unavailable | Cancelled | Unknown),
    }
}

fn nobody(message: &str, silent: &[String]) -> Failure {
    let failure = silent.iter().fold(Failure::new(Exit::Unavailable, message), Failure::remedy);
    failure.remedy("start one with `cabbage-cli dev`, or name yours with --broker or CABBAGE_BROKER")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_completed() {
        for (text, expected) in [
            ("http://127.0.0.1:7733", "http://127.0.0.1:7733"),
            ("127.0.0.1:7733", "http://127.0.0.1:7733"),
            (" http://[::1]:7733/ ", "http://[::1]:7733"),
            ("broker.example:7733", "http://broker.example:7733"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), expected);
        }
        for bad in ["", "http://", "ftp://a:1", "http://a:1/path", "https://a:1", "http://a b", "127.0.0.1:", "broker"]
        {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_for_the_record_is_plain_and_has_a_limit() {
        assert!(parse_actor(&"x".repeat(ACTOR_BYTES_MAX)).is_ok());
        assert!(parse_actor(&"x".repeat(ACTOR_BYTES_MAX + 1)).unwrap_err().contains("the limit is 128"));
        assert!(parse_actor("").is_err() && parse_actor("ä").is_err());
    }

    #[test]
    fn only_what_another_broker_may_serve_is_tried_again() {
        assert!(is_passing(&Status::unavailable("gone")));
        assert!(is_passing(&Status::cancelled("GOAWAY")));
        assert!(!is_passing(&Status::not_found("no")));
        assert!(!is_passing(&Status::deadline_exceeded("late")));
    }
}
