//! Which failures of a registry pass, and how long to wait for that.

use oci_distribution::errors::{OciDistributionError, OciErrorCode};
use std::time::Duration;

/// Tries in all: with the pauses between them, half a minute, which a restarting registry or a link that flaps needs.
const TRIES: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// What to do before the next try.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Get new tokens: those at hand are no longer taken.
    Login,
    /// Wait.
    Wait(Duration),
}

/// The tries of one operation so far.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    failures: u32,
    logged_in: bool,
}

impl Attempt {
    /// What `error` asks for; `None` when trying again cannot help.
    pub(super) fn next(&mut self, error: &OciDistributionError) -> Option<Next> {
        self.failures += 1;
        match class(error) {
            // A second refusal is meant.
            Class::Login if !self.logged_in => {
                self.logged_in = true;
                Some(Next::Login)
            }
            Class::Passing if self.failures < TRIES => {
                Some(Next::Wait(FIRST_PAUSE * (1 << (self.failures - 1))))
            }
            _ => None,
        }
    }
}

enum Class {
    Login,
    Passing,
    Final,
}

fn class(error: &OciDistributionError) -> Class {
    match error {
        OciDistributionError::UnauthorizedError { .. } => Class::Login,
        OciDistributionError::ServerError { code, .. } => status(*code),
        OciDistributionError::RequestError(e) => match e.status() {
            Some(code) => status(code.as_u16()),
            // Without an answer: refused, cut off, or silent.
            None if e.is_builder() => Class::Final,
            None => Class::Passing,
        },
        OciDistributionError::RegistryError { envelope, .. } => {
            match envelope.errors.first().map(|e| &e.code) {
                Some(OciErrorCode::Unauthorized) => Class::Login,
                Some(OciErrorCode::Toomanyrequests) => Class::Passing,
                // A registry that lost an upload session takes the blob in a new one.
                Some(OciErrorCode::BlobUploadInvalid | OciErrorCode::BlobUploadUnknown) => Class::Passing,
                _ => Class::Final,
            }
        }
        OciDistributionError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Class::Passing,
        _ => Class::Final,
    }
}

fn status(code: u16) -> Class {
    match code {
        401 => Class::Login,
        408 | 429 | 500 | 502..=504 => Class::Passing,
        _ => Class::Final,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: u16) -> OciDistributionError {
        OciDistributionError::ServerError { code, url: String::new(), message: String::new() }
    }

    #[test]
    fn a_busy_registry_is_waited_for_longer_and_longer_and_not_for_ever() {
        let mut attempt = Attempt::default();
        let pauses: Vec<_> = (0..TRIES).map(|_| attempt.next(&server(503))).collect();
        let seconds = |n| Some(Next::Wait(Duration::from_secs(n)));
        assert_eq!(pauses, [seconds(1), seconds(2), seconds(4), seconds(8), seconds(16), None]);
    }

    #[test]
    fn an_expired_token_is_renewed_once_and_a_refusal_is_final() {
        let mut attempt = Attempt::default();
        assert_eq!(attempt.next(&server(401)), Some(Next::Login));
        assert_eq!(attempt.next(&server(401)), None);
        assert_eq!(Attempt::default().next(&server(403)), None);
    }
}
