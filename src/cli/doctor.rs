//! `forge doctor`: can this machine build and run, and what to change where it cannot.

use super::Session;
use crate::error::{self, Kind};
use crate::host::probe::{self, Finding};
use std::fmt::Write as _;

/// Checks everything, tells everything, and fails when a build could not work.
pub fn run(session: &Session) -> anyhow::Result<()> {
    let findings = probe::all(&session.cache_dir);
    let mut human = String::new();
    for Finding { what, state, remedy } in &findings {
        let mark = match (state.is_ok(), remedy) {
            (true, _) => session.ui.paint("32", "ok  "),
            (false, probe::Need::Build) => session.ui.paint("31;1", "FAIL"),
            (false, probe::Need::Comfort) => session.ui.paint("33", "note"),
        };
        let words = match state {
            Ok(words) | Err((words, _)) => words,
        };
        let _ = writeln!(human, "{mark} {what}: {words}");
        if let Err((_, mend)) = state {
            let _ = writeln!(human, "     {mend}");
        }
    }
    let failed = findings.iter().filter(|f| f.state.is_err() && f.remedy == probe::Need::Build).count();
    let rows: Vec<_> = findings.iter().map(|f| serde_json::json!({ "what": f.what, "ok": f.state.is_ok(), "detail": f.state.as_ref().map_or_else(|e| e.0.clone(), Clone::clone), "mend": f.state.as_ref().err().map(|e| &e.1) })).collect();
    session.ui.result("doctor", &serde_json::json!({ "checks": rows, "failed": failed }), human);
    if failed > 0 {
        Err(error::of(Kind::Unexpected, anyhow::anyhow!("{failed} of {} checks failed", findings.len())))
    } else {
        Ok(())
    }
}
