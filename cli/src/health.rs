//! `health`: whether brokers serve, asked as load balancers ask.

use std::time::Duration;

use cabbage_broker::args::{ADMIN_DEFAULT, LISTEN_DEFAULT};
use clap::Args;
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    brokers::{Address, BrokerArgs},
    exit::{Exit, Failure, Outcome},
    output::{OutputArgs, lines, table},
    refusal::Effect,
};

/// The services that are asked for, by their full names. The empty one stands for the broker as a whole.
const SERVICES: [&str; 3] = ["", "cabbage.v1.JobService", "cabbage.v1.WorkerService"];
/// How long a broker's admin address may take to answer.
const READYZ_TIMEOUT: Duration = Duration::from_secs(5);
/// How much of its answer is read.
const READYZ_BYTES_MAX: u64 = 64 * 1024;

/// Ask brokers whether they serve; exit code 6 if one of them does not
#[derive(Args, Debug)]
pub(crate) struct HealthArgs {
    /// The admin address of the broker, to ask for /readyz too; several are separated by commas. Without it, that of
    /// a broker on its default addresses is asked
    #[arg(long, env = "CABBAGE_ADMIN", value_name = "URL", value_delimiter = ',')]
    admin: Vec<Address>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

/// One answer.
#[derive(Debug, Serialize)]
struct Check {
    address: String,
    #[serde(rename = "check")]
    name: String,
    healthy: bool,
    said: String,
}

impl HealthArgs {
    pub(crate) async fn run(&self) -> Outcome {
        let mut checks = Vec::new();
        for address in self.brokers.addresses() {
            checks.extend(ask_broker(address).await);
        }
        for address in self.admin.iter().cloned().chain(self.default_admin()) {
            checks.push(ask_admin(&address).await);
        }
        self.output.print(|| rows(&checks), &checks)?;
        match checks.iter().filter(|check| !check.healthy).count() {
            0 => Ok(()),
            sick => Err(Failure::new(Exit::Unavailable, format!("{sick} of {} checks failed", checks.len()))),
        }
    }

    /// Where a broker on its default address answers operators. Of any other we cannot know.
    fn default_admin(&self) -> Option<Address> {
        let broker: Address = LISTEN_DEFAULT.to_string().parse().ok()?;
        let default = self.admin.is_empty() && self.brokers.addresses() == [broker];
        default.then(|| ADMIN_DEFAULT.to_string().parse().ok()).flatten()
    }
}

async fn ask_broker(address: &Address) -> Vec<Check> {
    let broker = BrokerArgs::single(address.clone());
    let mut checks = Vec::new();
    for service in SERVICES {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = broker
            .ask("cannot ask for health", Effect::Reads, async |channel| {
                HealthClient::new(channel).check(request.clone()).await
            })
            .await;
        let (healthy, said) = match answer {
            Ok(Ok(answer)) => match answer.status() {
                ServingStatus::Serving => (true, "serving".to_owned()),
                ServingStatus::NotServing => (false, "not serving".to_owned()),
                ServingStatus::Unknown | ServingStatus::ServiceUnknown => (false, "unknown".to_owned()),
            },
            Ok(Err(status)) if status.code() == Code::NotFound => (false, "no such service".to_owned()),
            Ok(Err(status)) => (false, status.message().to_owned()),
            // Nobody is there; the other services need not be asked for.
            Err(failure) => {
                let text = failure.to_string();
                let said = text.lines().nth(1).unwrap_or(&text).trim().to_owned();
                checks.push(Check { address: address.to_string(), name: "broker".into(), healthy: false, said });
                return checks;
            }
        };
        let check = if service.is_empty() { "broker" } else { service };
        checks.push(Check { address: address.to_string(), name: check.to_owned(), healthy, said });
    }
    checks
}

/// Asks for /readyz, which says why where the broker is not ready.
async fn ask_admin(address: &Address) -> Check {
    let answer = tokio::time::timeout(READYZ_TIMEOUT, get(address.authority(), "/readyz")).await;
    let (healthy, said) = match answer {
        Ok(Ok((200, body))) => (true, if body.is_empty() { "ready".to_owned() } else { body }),
        Ok(Ok((code, body))) => (false, format!("{code} {body}").trim_end().to_owned()),
        Ok(Err(error)) => (false, error.to_string()),
        Err(_) => (false, "no answer in time".to_owned()),
    };
    Check { address: address.to_string(), name: "/readyz".to_owned(), healthy, said }
}

/// A GET in its oldest form, which needs no library: the server closes the connection after the body.
pub(crate) async fn get(authority: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(authority).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(READYZ_BYTES_MAX).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    parse(&answer).ok_or_else(|| std::io::Error::other("this is no HTTP server"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.strip_prefix("HTTP/1.")?.split_whitespace().nth(1)?.parse().ok()?;
    Some((code, body.trim().to_owned()))
}

fn rows(checks: &[Check]) -> String {
    let mut table = table(&["ADDRESS", "CHECK", "OK", "SAID"]);
    for check in checks {
        // What a server said stays in its row.
        let said = check.said.replace(['\n', '\r'], " ");
        let healthy = if check.healthy { "yes" } else { "no" };
        table.add_row([check.address.as_str(), check.name.as_str(), healthy, said.as_str()]);
    }
    lines(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_http_are_told_from_noise() {
        assert_eq!(parse("HTTP/1.1 200 OK\r\nA: b\r\n\r\nready\n"), Some((200, "ready".to_owned())));
        assert_eq!(parse("HTTP/1.0 503 No\r\n\r\n"), Some((503, String::new())));
        assert_eq!(parse("SSH-2.0\r\n\r\n"), None);
    }
}
