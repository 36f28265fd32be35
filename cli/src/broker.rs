//! `broker`: which brokers serve the cell, and which of them owns it.

use cabbage_proto::v1::{Broker, HandOverRequest, HandOverResponse, ListBrokersRequest, ListBrokersResponse};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{
    brokers::{BrokerArgs, admin_service},
    exit::Outcome,
    output::{OutputArgs, lines, table},
    refusal::Effect,
    time::{for_machines, for_people, from_wire},
};

/// See which brokers serve the cell, and hand it over from one to another
#[derive(Debug, Subcommand)]
pub(crate) enum BrokerCommand {
    List(ListArgs),
    #[command(name = "handover")]
    HandOver(HandOverArgs),
}

/// List the brokers of the cell, its owner first
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

/// Make the owner hand the cell over to another broker, without a gap that anybody notices
#[derive(Args, Debug)]
pub(crate) struct HandOverArgs {
    /// The address that the next owner advertises, as `broker list` shows it; the one that is farthest if it is left out
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// Why, for the record
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    brokers: BrokerArgs,
}

/// A broker as JSON.
#[derive(Debug, Serialize)]
struct BrokerView<'a> {
    address: &'a str,
    owner: bool,
    term: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    version: &'a str,
    relayed_streams: u32,
    lag: u64,
    highest_format: u32,
}

/// All of them as JSON.
#[derive(Debug, Serialize)]
struct ListView<'a> {
    brokers: Vec<BrokerView<'a>>,
    log_format: u32,
}

/// A handover as JSON.
#[derive(Debug, Serialize)]
struct HandOverView {
    term: u64,
}

impl BrokerCommand {
    pub(crate) async fn run(&self) -> Outcome {
        match self {
            Self::List(args) => args.run().await,
            Self::HandOver(args) => args.run().await,
        }
    }
}

impl ListArgs {
    async fn run(&self) -> Outcome {
        let call = async |channel| admin_service(channel).list_brokers(ListBrokersRequest {}).await;
        let list = self.brokers.call("cannot list the brokers", Effect::Reads, call).await?;
        let view = ListView { brokers: list.brokers.iter().map(BrokerView::of).collect(), log_format: list.log_format };
        self.output.print(|| rows(&list), &view)
    }
}

impl HandOverArgs {
    async fn run(&self) -> Outcome {
        let request = HandOverRequest { address: self.to.clone().unwrap_or_default(), reason: self.reason.clone() };
        let call = async |channel| admin_service(channel).hand_over(self.brokers.signed(request.clone())).await;
        let HandOverResponse { term } = self.brokers.call("cannot hand the cell over", Effect::Changes, call).await?;
        self.output.print(|| format!("handed over: term {term}"), &HandOverView { term })
    }
}

impl<'a> BrokerView<'a> {
    fn of(broker: &'a Broker) -> Self {
        Self {
            address: &broker.address,
            owner: broker.owner,
            term: broker.term,
            since: broker.since.and_then(from_wire).map(for_machines),
            version: &broker.version,
            relayed_streams: broker.relayed_streams,
            lag: broker.lag,
            highest_format: broker.highest_format,
        }
    }
}

fn rows(list: &ListBrokersResponse) -> String {
    let mut table = table(&["ADDRESS", "ROLE", "TERM", "SINCE", "VERSION", "READS FORMAT", "RELAYED STREAMS", "LAG"]);
    for broker in &list.brokers {
        let role = if broker.owner {
            "owner"
        } else if broker.highest_format < list.log_format {
            "too old"
        } else {
            "follows"
        };
        table.add_row([
            broker.address.clone(),
            role.to_owned(),
            broker.term.to_string(),
            broker.since.and_then(from_wire).map(for_people).unwrap_or_default(),
            broker.version.clone(),
            broker.highest_format.to_string(),
            broker.relayed_streams.to_string(),
            broker.lag.to_string(),
        ]);
    }
    format!("{}\nthe log has format {}", lines(table), list.log_format)
}
