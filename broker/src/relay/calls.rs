//! Unary calls at any broker: answered here if this broker owns the cell, else passed on to the owner; held back for as
//! long as their deadlines allow while nobody owns it.

use std::time::Duration;

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, request},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use cabbage_proto::relay::v1::{Answer, Call};
use http_body_util::{BodyExt as _, Full};
use tokio::time::Instant;
use tonic::{Status, transport::server::TcpConnectInfo};

use crate::grpc::{
    MESSAGE_BYTES_MAX,
    status::{Reason, lost_cell, message_too_large},
};

use super::{
    link::Lost,
    parts::{from_wire, to_wire},
    repeats::{PREFIX_BYTES, may_be_repeated, numbered, reads},
    way::{Relay, Way},
};

/// The calls that are passed on: all of these services but the streams, which find their own way.
const SERVICES: &str = "/cabbage.v1.";
const STREAMS: &str = "/cabbage.v1.WorkerService/Work";

/// Headers in which relays of a mesh, and clients, say how long they wait.
const TIMEOUT: &str = "grpc-timeout";

/// The digits of such a header.
const TIMEOUT_DIGITS_MAX: usize = 8;

/// How long after the answer of an owner that no longer is one it is looked again.
const NEXT_LOOK: Duration = Duration::from_millis(5);

/// Marks a request that another broker passed on, with the address that it came from.
#[derive(Clone, Debug)]
pub struct Relayed {
    /// The IP address of the client.
    pub address: String,
}

/// Answers a call here, or passes it on. `next` answers as the owner does.
pub async fn relay(State(relay): State<Relay>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !path.starts_with(SERVICES) || path == STREAMS {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    let Ok(mut body) = to_bytes(body, MESSAGE_BYTES_MAX + PREFIX_BYTES).await else {
        return message_too_large().into_http();
    };
    let mut known = relay.now();
    // Where this broker owns the cell, the cell has limits of its own.
    let here = matches!(known, Some(Way::Here(_)));
    let _room = match (!here).then(|| relay.room(body.len())).transpose() {
        Ok(room) => room,
        Err(busy) => return Status::from(busy).into_http(),
    };
    let began = Instant::now();
    let asked = timeout_of(&head.headers);
    let until = began + asked.unwrap_or(relay.hold());
    let mut last: Option<Response> = None;
    // Whether it may have been done by an owner that was lost, so that nobody must say that nothing was done.
    let mut doubt = false;
    loop {
        let way = match known.take() {
            Some(way) => way,
            None => match relay.way(until).await {
                Ok(way) => way,
                Err(_) if doubt => return unknown().into_http(),
                // The last answer names the reason better than that there was no other.
                Err(status) => return last.unwrap_or_else(|| status.into_http()),
            },
        };
        let answer = match way {
            Way::Here(_) => next.clone().run(Request::from_parts(head.clone(), Body::from(body.clone()))).await,
            Way::There(link) => {
                let left = asked.map(|asked| asked.saturating_sub(began.elapsed()));
                // Once: made again, here or there, it has the same id.
                body = numbered(head.uri.path(), body);
                match link.call(call(&head, body.clone(), left)).await {
                    Ok(answer) => response(answer),
                    Err(Lost::Unknown) if !may_be_repeated(head.uri.path(), &body) => return unknown().into_http(),
                    Err(lost) => {
                        doubt |= lost == Lost::Unknown && !reads(head.uri.path());
                        if Instant::now() >= until {
                            let nobody = || last.unwrap_or_else(|| relay.nobody().into_http());
                            return if doubt { unknown().into_http() } else { nobody() };
                        }
                        // A link that takes nothing any more is about to be over.
                        tokio::time::sleep(NEXT_LOOK).await;
                        continue;
                    }
                }
            }
        };
        let again = match lost_cell(answer.headers()) {
            None => return answer,
            Some(Reason::OutcomeUnknown) => {
                doubt |= !reads(head.uri.path());
                may_be_repeated(head.uri.path(), &body)
            }
            Some(_) => true,
        };
        if !again || Instant::now() >= until {
            return if doubt { unknown().into_http() } else { answer };
        }
        last = Some(answer);
        // The owner has said that it is none any more; whoever is next is not known yet.
        tokio::time::sleep(NEXT_LOOK).await;
    }
}

fn unknown() -> Status {
    Reason::OutcomeUnknown
        .status("the owner of the cell was lost before its answer; what came of the call is not known")
}

/// The call, as it goes to the owner.
fn call(head: &request::Parts, body: Bytes, left: Option<Duration>) -> Call {
    let mut headers = head.headers.clone();
    if let Some(left) = left {
        let value = match left.as_micros() {
            micros @ 0..=99_999_999 => format!("{micros}u"),
            micros => format!("{}m", (micros / 1_000).min(99_999_999)),
        };
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(TIMEOUT, value);
        }
    }
    Call { path: head.uri.path().to_owned(), headers: to_wire(&headers), body, address: address(head) }
}

/// The IP address that the call came from; empty if it is not known.
fn address(head: &request::Parts) -> String {
    let tcp = head.extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
    tcp.map(|address| address.ip().to_string()).unwrap_or_default()
}

/// The owner's answer, as it goes to the client.
fn response(answer: Answer) -> Response {
    let Answer { status, headers, body, trailers } = answer;
    let trailers = from_wire(trailers);
    let body = Full::new(body);
    let body = if trailers.is_empty() {
        Body::new(body)
    } else {
        Body::new(body.with_trailers(std::future::ready(Some(Ok(trailers)))))
    };
    let mut response = Response::new(body);
    *response.status_mut() =
        u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::OK);
    *response.headers_mut() = from_wire(headers);
    response
}

/// How long the caller waits, as it says.
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // What is longer is no timeout of gRPC, and could be later than time goes.
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= TIMEOUT_DIGITS_MAX)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The whole of an answer that was given here, for the relay that asked.
pub(super) async fn answer(response: Response) -> Answer {
    let (head, body) = response.into_parts();
    let (body, trailers) = match body.collect().await {
        Ok(collected) => {
            let trailers = collected.trailers().map(to_wire).unwrap_or_default();
            (collected.to_bytes(), trailers)
        }
        Err(error) => {
            let status = Reason::Internal.status(format!("a bug in the broker: an answer cannot be read: {error}"));
            let mut headers = HeaderMap::new();
            // A status that was made here fits into headers.
            let _ = status.add_header(&mut headers);
            return Answer { status: 200, headers: to_wire(&headers), ..Answer::default() };
        }
    };
    Answer { status: head.status.as_u16().into(), headers: to_wire(&head.headers), body, trailers }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn deadlines_are_read_in_every_unit() {
        let timeout = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(TIMEOUT, HeaderValue::from_static(text));
            timeout_of(&headers)
        };
        assert_eq!(timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("1H"), Some(Duration::from_hours(1)));
        assert_eq!(timeout("99999999H"), Some(Duration::from_hours(99_999_999)));
        // No client may make the broker count beyond the end of time.
        assert_eq!(timeout("999999999999999999H"), None);
        assert_eq!(timeout("7x"), None);
        assert_eq!(timeout(""), None);
    }

    #[test]
    fn an_error_goes_over_as_it_is() {
        let said = Status::with_details(Code::NotFound, "no such job", Bytes::from_static(b"details"));
        let back = tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
            let answer = answer(said.clone().into_http()).await;
            response(answer)
        });
        let status = Status::from_header_map(back.headers()).expect("a status");
        assert_eq!((status.code(), status.message(), status.details()), (said.code(), said.message(), said.details()));
    }
}
