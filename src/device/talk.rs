//! Calls to the fleet: endpoints in their order, requests signed over the fleet's nonce, answers believed only when one of
//! the bundle's keys signed them over ours.
//!
//! A portal, a proxy or an old recording can answer anything; none of it gets further than [`Code::Portal`].

use crate::device::adopt::Held;
use crate::device::effects::{Call, Effects, NetError, Reply};
use crate::device::pause::Pause;
use crate::enroll::bootstrap::{Bootstrap, Endpoint};
use crate::enroll::claim::{Answer, HELLO, Hello, MAX_WAIT_S, Refusal};
use crate::enroll::code::Code;
use crate::enroll::envelope::{self, Context, Direction, Nonce, Sealed};
use crate::model::Epoch;
use crate::sign::Signer;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a call may take that the fleet holds open.
const LONG_PATIENCE: Duration = Duration::from_secs(MAX_WAIT_S as u64 + 40);

/// An endpoint that answered, and what the next request to it is signed with.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its place among the bundle's endpoints, in their order.
    pub index: usize,
    endpoint: Endpoint,
    nonce: Nonce,
}

/// What the fleet says.
#[derive(Clone, Debug, PartialEq)]
pub enum Said<T> {
    /// What was asked for.
    Yes(Answer<T>),
    /// Why not.
    No(Answer<Refusal>),
}

/// A request.
pub struct Request<'a> {
    /// `GET` or `POST`.
    pub method: &'a str,
    /// Without the query.
    pub path: &'a str,
    /// What the query has beside the nonce: empty, or `wait=50`.
    pub query: &'a str,
    /// The payload and who signs it, for `POST`.
    pub body: Option<(&'a [u8], &'a [&'a dyn Signer])>,
}

/// Draws a nonce.
pub fn nonce(io: &mut impl Effects) -> Result<Nonce, Pause> {
    let mut bytes = [0; 16];
    io.random(&mut bytes).map_err(|e| Pause::trouble(Code::DiskTrouble, format!("{e:#}")))?;
    Ok(Nonce::from_random(bytes))
}

/// Asks the endpoints, from place `first` on around, until one is the fleet.
///
/// # Errors
/// The code of the endpoint that got furthest.
pub fn hello(
    io: &mut impl Effects,
    held: &Held,
    floor: Epoch,
    first: usize,
) -> Result<(Line, Answer<Hello>), Pause> {
    let endpoints = held.bootstrap.endpoints_in_order();
    let mut furthest: Option<NetError> = None;
    for n in 0..endpoints.len() {
        let index = (first + n) % endpoints.len();
        let mut line = Line { index, endpoint: endpoints[index].clone(), nonce: nonce(io)? };
        let request = Request { method: "GET", path: HELLO, query: "", body: None };
        let error = match exchange::<Hello>(io, &held.bootstrap, &mut line, &request, floor)? {
            Ok(Said::Yes(answer)) if answer.body.fleet == held.bootstrap.fleet => return Ok((line, answer)),
            Ok(Said::Yes(answer)) => NetError::Portal(format!("the fleet {} answers", answer.body.fleet)),
            // The fleet, and it has no time: it is the one to wait for.
            Ok(Said::No(answer)) => return Err(refusal(&answer)),
            Err(error) => error,
        };
        if furthest.as_ref().is_none_or(|f| f.depth() < error.depth()) {
            furthest = Some(error);
        }
    }
    let error = furthest.unwrap_or_else(|| NetError::Unreachable("the bundle names no endpoint".into()));
    Err(blame(io, error))
}

/// Makes a call on `line`. A request that was signed with a stale nonce is signed and sent once more.
///
/// # Errors
/// When nobody answers, or somebody else; the line is not to be used again.
pub fn call<T: DeserializeOwned>(
    io: &mut impl Effects,
    held: &Held,
    line: &mut Line,
    request: &Request<'_>,
    floor: Epoch,
) -> Result<Said<T>, Pause> {
    for again in [true, false] {
        match exchange(io, &held.bootstrap, line, request, floor)? {
            Ok(Said::No(answer)) if answer.status == 401 && again => {}
            Ok(said) => return Ok(said),
            Err(error) => return Err(blame(io, error)),
        }
    }
    Err(Pause::trouble(Code::Unreachable, "the fleet takes no nonce of its own"))
}

/// One exchange. What the network says is a value, for there may be another endpoint.
fn exchange<T: DeserializeOwned>(
    io: &mut impl Effects,
    bootstrap: &Bootstrap,
    line: &mut Line,
    request: &Request<'_>,
    floor: Epoch,
) -> Result<Result<Said<T>, NetError>, Pause> {
    let ours = nonce(io)?;
    let and = if request.query.is_empty() { "" } else { "&" };
    let target = format!("{}?nonce={ours}{and}{}", request.path, request.query);
    let body = match request.body {
        None => None,
        Some((payload, signers)) => {
            let (method, path) = (request.method, request.path);
            let context = Context { direction: Direction::Request, method, path, nonce: &line.nonce };
            let sealed = envelope::seal(signers, &context, payload);
            Some(sealed.map_err(|e| Pause::trouble(Code::TpmTrouble, format!("{e:#}")))?)
        }
    };
    let reply = io.exchange(&Call {
        endpoint: &line.endpoint,
        proxy: bootstrap.proxy.as_deref(),
        proxy_ca: bootstrap.proxy_ca.as_deref(),
        clock_floor: floor,
        method: request.method,
        target: &target,
        body: body.as_deref(),
        patience: if request.query.contains("wait=") { LONG_PATIENCE } else { PATIENCE },
    });
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => return Ok(Err(error)),
    };
    let context =
        Context { direction: Direction::Answer, method: request.method, path: request.path, nonce: &ours };
    Ok(match open::<T>(&reply, &context, bootstrap) {
        Ok((next, said)) => {
            line.nonce = next;
            Ok(said)
        }
        Err(why) => Err(NetError::Portal(format!("{} at {}", why, line.endpoint.url))),
    })
}

/// What was signed in a reply; nothing else of it is looked at.
fn open<T: DeserializeOwned>(
    reply: &Reply,
    context: &Context<'_>,
    bootstrap: &Bootstrap,
) -> Result<(Nonce, Said<T>), String> {
    let sealed =
        Sealed::parse(&reply.body).map_err(|_| format!("no signed answer (status {})", reply.status))?;
    let payload = sealed
        .open_by(context, &bootstrap.signers.grant_keys)
        .map_err(|_| "an answer that the fleet did not sign for this question".to_string())?;
    let unreadable = |e: serde_json::Error| format!("a signed answer that cannot be read ({e})");
    let answer: Answer<serde_json::Value> = serde_json::from_slice(payload.get()).map_err(unreadable)?;
    let next = answer.nonce.clone();
    let said = if answer.status >= 400 {
        Said::No(with_body(answer).map_err(unreadable)?)
    } else {
        Said::Yes(with_body(answer).map_err(unreadable)?)
    };
    Ok((next, said))
}

fn with_body<T: DeserializeOwned>(answer: Answer<serde_json::Value>) -> Result<Answer<T>, serde_json::Error> {
    let Answer { status, now, nonce, retry_after_s, body } = answer;
    Ok(Answer { status, now, nonce, retry_after_s, body: serde_json::from_value(body)? })
}

/// What a person reads of `error`: where no port has a cable or an address, that is why.
fn blame(io: &mut impl Effects, error: NetError) -> Pause {
    let links = io.links();
    let answered =
        matches!(error, NetError::Portal(_) | NetError::ForeignCertificate(_) | NetError::Proxy(_));
    let code = if answered {
        error.code()
    } else if !links.iter().any(|link| link.carrier) {
        Code::NoLink
    } else if links.iter().all(|link| link.addresses.is_empty()) {
        Code::NoAddress
    } else {
        error.code()
    };
    Pause::trouble(code, error.to_string())
}

/// The wait that a refusal is.
pub fn refusal(answer: &Answer<Refusal>) -> Pause {
    let retry_after = answer.retry_after_s.map(|s| Duration::from_secs(u64::from(s)));
    let reason = answer.body.reason.clone();
    let by_status = match answer.status {
        403 => Some(Code::Denied),
        409 => Some(Code::Quarantined),
        410 => Some(Code::TicketRevoked),
        426 => Some(Code::AgentTooOld),
        _ => None,
    };
    match (answer.status, answer.body.code.or(by_status)) {
        (403, Some(Code::AwaitsApproval)) => {
            let pause = Pause::trouble(Code::AwaitsApproval, reason);
            Pause { until: crate::device::pause::Until::Approval, retry_after, ..pause }
        }
        (403 | 409 | 410 | 422 | 426, code) => Pause::refused(code.unwrap_or(Code::Denied), reason),
        (_, code) => Pause { retry_after, ..Pause::trouble(code.unwrap_or(Code::Unreachable), reason) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::pause::Until;

    #[test]
    fn a_no_is_an_hour_and_too_many_is_what_the_fleet_says() {
        let answer = |status, code| Answer {
            status,
            now: Epoch(0),
            nonce: Nonce::from_random([1; 16]),
            retry_after_s: Some(7),
            body: Refusal { code, reason: "why".into() },
        };
        for (status, code, until, shown) in [
            (403, Some(Code::Revoked), Until::Refused, Code::Revoked),
            (403, None, Until::Refused, Code::Denied),
            (403, Some(Code::AwaitsApproval), Until::Approval, Code::AwaitsApproval),
            (409, Some(Code::TicketTaken), Until::Refused, Code::TicketTaken),
            (410, None, Until::Refused, Code::TicketRevoked),
            (426, None, Until::Refused, Code::AgentTooOld),
            (429, None, Until::Trouble, Code::Unreachable),
            (503, None, Until::Trouble, Code::Unreachable),
        ] {
            let pause = refusal(&answer(status, code));
            assert_eq!((pause.until, pause.code), (until, Some(shown)), "{status}");
            let obeyed = pause.retry_after == Some(Duration::from_secs(7));
            assert_eq!(obeyed, until != Until::Refused, "{status}");
        }
    }

    #[test]
    fn a_fleet_that_is_newer_may_give_codes_that_the_box_does_not_know() {
        let body = r#"{"code":"E-GRANT-99","reason":"of a later day"}"#;
        let body: Refusal = serde_json::from_str(body).unwrap();
        let answer = Answer {
            status: 422,
            now: Epoch(0),
            nonce: Nonce::from_random([1; 16]),
            retry_after_s: None,
            body,
        };
        let pause = refusal(&answer);
        assert_eq!((pause.until, pause.code), (Until::Refused, Some(Code::Denied)));
        assert_eq!(pause.detail, "of a later day");
        let standing = r#"{"device":"fd-xk37fcn3ijmo3gqj64um2wozt2","state":"denied","code":"E-GRANT-99"}"#;
        let standing: crate::enroll::claim::Standing = serde_json::from_str(standing).unwrap();
        assert_eq!(standing.code, None);
        assert!(serde_json::from_str::<Refusal>(r#"{"code":7,"reason":""}"#).is_err());
    }
}
