//! What comes in and what goes out, and the shapes in between: request, refusal, reply, response.

use crate::enroll::DeviceId;
use crate::enroll::code::Code;
use rusqlite::Connection;
use serde::Serialize;

/// A request, as HTTP brought it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `GET` or `POST`.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Behind the question mark.
    pub query: String,
    /// At most [`MAX_BODY`](crate::enroll::MAX_BODY) bytes.
    pub body: Vec<u8>,
}

/// What is to be sent back.
#[derive(Clone, Debug)]
pub struct Response {
    /// HTTP's status.
    pub status: u16,
    /// HTTP's `Retry-After`, in seconds.
    pub retry_after_s: Option<u32>,
    /// HTTP's `Content-Type`.
    pub content_type: &'static str,
    /// The signed answer.
    pub body: Vec<u8>,
    /// Where nothing has changed for a device that waits: for how many seconds the answer may be held back, unless
    /// [`Service::changes`](super::Service::changes) names the device before. The request is then to be handled again.
    pub hold: Option<(DeviceId, u32)>,
    /// What went wrong at the endpoint, for its log.
    pub trouble: Option<String>,
}

/// Why a request is not granted. The reason goes to the device and to its screen.
#[derive(Clone, Debug)]
pub struct Refused {
    pub(super) status: u16,
    pub(super) code: Option<Code>,
    pub(super) reason: String,
    pub(super) retry_after_s: Option<u32>,
}

impl Refused {
    pub(super) fn new(status: u16, code: Code, reason: impl Into<String>) -> Refused {
        Refused { status, code: Some(code), reason: reason.into(), retry_after_s: None }
    }
    pub(super) fn without_code(status: u16, reason: impl Into<String>) -> Refused {
        Refused { status, code: None, reason: reason.into(), retry_after_s: None }
    }
    pub(super) fn later(status: u16, reason: &str, seconds: u32) -> Refused {
        Refused { retry_after_s: Some(seconds), ..Refused::without_code(status, reason) }
    }
}

/// Why a request has no body of its own for an answer.
pub(super) enum Stop {
    Refused(Refused),
    Trouble(anyhow::Error),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Stop {
        Stop::Refused(refused)
    }
}
impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Stop {
        Stop::Trouble(error)
    }
}

/// What a request comes to before it is signed.
pub struct Reply {
    pub(super) status: u16,
    pub(super) retry_after_s: Option<u32>,
    pub(super) hold: Option<(DeviceId, u32)>,
    pub(super) body: serde_json::Value,
}

impl Reply {
    pub(super) fn of(status: u16, body: &impl Serialize) -> anyhow::Result<Reply> {
        let body = serde_json::to_value(body)?;
        Ok(Reply { status, retry_after_s: None, hold: None, body })
    }
}

/// What a request does in its one transaction.
pub type Work = Box<dyn FnOnce(&Connection) -> anyhow::Result<Result<Reply, Refused>> + Send>;

pub(super) enum Next {
    Reply(Reply),
    Write(Work),
}

impl From<Reply> for Next {
    fn from(reply: Reply) -> Next {
        Next::Reply(reply)
    }
}

/// A request that was looked at, as far as that needs no writing.
pub enum Begun {
    /// There is nothing to write.
    Answered(Response),
    /// This is to be committed, and then to be told to [`Service::end`](super::Service::end).
    Write(Work),
}
