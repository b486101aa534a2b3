//! Counts for Prometheus: its text format, version 0.0.4. Numbers alone; no device is named.

use crate::fleet::Service;
use crate::fleet::operator;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of how long a call took, in seconds.
const BOUNDS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

/// What was counted since the start.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    requests: BTreeMap<(&'static str, u16), u64>,
    durations: BTreeMap<&'static str, ([u64; BOUNDS.len()], u64, f64)>,
    refused_connections: u64,
}

impl Metrics {
    /// Counts a call that was answered with `status` after `took`.
    pub fn request(&self, call: &'static str, status: u16, took: Duration) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counted.requests.entry((call, status)).or_default() += 1;
        let (buckets, count, sum) = counted.durations.entry(call).or_default();
        for (bucket, bound) in buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(took.as_secs_f64() <= bound);
        }
        *count += 1;
        *sum += took.as_secs_f64();
    }

    /// Counts a connection that never got as far as a request.
    pub fn refused_connection(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).refused_connections += 1;
    }

    /// The text.
    ///
    /// # Errors
    /// What the database says.
    pub fn render(&self, service: &Service, waiting: usize) -> anyhow::Result<String> {
        let (states, alarms): (_, i64) = service.store().read(|connection| {
            let alarms =
                connection
                    .query_row("SELECT count(*) FROM audit WHERE action = 'alarm'", [], |r| r.get(0))?;
            Ok((operator::counts(connection)?, alarms))
        })?;
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        let head = |text: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}"); // to a String: never an error
        };
        head(&mut text, "forge_fleet_devices", "gauge", "Devices by state.");
        for (state, count) in states {
            let _ = writeln!(text, "forge_fleet_devices{{state=\"{state}\"}} {count}");
        }
        head(&mut text, "forge_fleet_alarms_total", "counter", "Things that did not fit, for a person.");
        let _ = writeln!(text, "forge_fleet_alarms_total {alarms}");
        head(&mut text, "forge_fleet_waiting", "gauge", "Calls that are held open until something changes.");
        let _ = writeln!(text, "forge_fleet_waiting {waiting}");
        head(&mut text, "forge_fleet_commits_total", "counter", "Transactions; one holds many requests.");
        let _ = writeln!(text, "forge_fleet_commits_total {}", service.store().commits());
        head(&mut text, "forge_fleet_refused_connections_total", "counter", "Connections without a request.");
        let _ = writeln!(text, "forge_fleet_refused_connections_total {}", counted.refused_connections);
        head(&mut text, "forge_fleet_requests_total", "counter", "Calls by answer.");
        for ((call, status), count) in &counted.requests {
            let _ =
                writeln!(text, "forge_fleet_requests_total{{call=\"{call}\",status=\"{status}\"}} {count}");
        }
        let name = "forge_fleet_request_seconds";
        head(&mut text, name, "histogram", "How long calls took, without the time that they were held open.");
        for (call, (buckets, count, sum)) in &counted.durations {
            for (bucket, bound) in buckets.iter().zip(BOUNDS) {
                let _ = writeln!(text, "{name}_bucket{{call=\"{call}\",le=\"{bound}\"}} {bucket}");
            }
            let _ = writeln!(text, "{name}_bucket{{call=\"{call}\",le=\"+Inf\"}} {count}");
            let _ = writeln!(text, "{name}_sum{{call=\"{call}\"}} {sum}");
            let _ = writeln!(text, "{name}_count{{call=\"{call}\"}} {count}");
        }
        Ok(text)
    }
}
