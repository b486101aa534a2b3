//! Verbs of the fleet's endpoint: its run, its boxes, its operators.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Verbs of the fleet's endpoint.
#[derive(Debug, Subcommand)]
pub enum FleetVerb {
    /// Make an endpoint's directory: keys, certificate, database, and fleet.json for bundles
    #[command(after_help = "Example:\n  forge fleet init fleet --name shops --host fleet.example")]
    Init {
        /// Made when missing, for this user alone
        dir: PathBuf,
        #[command(flatten)]
        naming: FleetNaming,
    },
    /// Run the endpoint until Ctrl-C; makes its directory where there is none
    ///
    /// Serves boxes below /v1/, operators at / (the token is in DIR/operator.token), Prometheus at /metrics, and /healthz.
    #[command(after_help = "Example:\n  forge fleet serve fleet --trust keys/fleet-root.pub")]
    Serve {
        /// The endpoint's directory
        dir: PathBuf,
        /// Keys (PEM) that sign the fleet's bundles; kept for the next start
        #[arg(long, value_name = "PUB")]
        trust: Vec<PathBuf>,
        /// How many of them have to sign a bundle
        #[arg(long, value_name = "N", default_value_t = 1)]
        threshold: usize,
        /// Where to listen
        #[arg(long, value_name = "ADDRESS", default_value = "[::]:8443")]
        listen: std::net::SocketAddr,
        #[command(flatten)]
        naming: FleetNaming,
    },
    /// List boxes: those that wait for a person first
    List {
        #[command(flatten)]
        at: FleetDir,
        /// Only in this state
        #[arg(long, value_name = "STATE", value_parser = ["pending", "approved", "joined", "denied", "quarantined", "revoked"])]
        state: Option<String>,
        /// Only where name, serial number, address, batch or reason contain this
        #[arg(long, value_name = "TEXT", default_value = "")]
        find: String,
        /// At most that many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
    /// Show all about a box: hardware, reasons, events
    Show {
        #[command(flatten)]
        at: FleetDir,
        #[command(flatten)]
        device: FleetDevice,
    },
    /// Let a box in, whatever holds it back
    Approve {
        #[command(flatten)]
        at: FleetDir,
        #[command(flatten)]
        device: FleetDevice,
    },
    /// Say no to a box; approving it takes that back
    Deny {
        #[command(flatten)]
        at: FleetDir,
        #[command(flatten)]
        device: FleetDevice,
        /// Shown on its screen
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Throw a box out for good, with this key or any other
    Revoke {
        #[command(flatten)]
        at: FleetDir,
        #[command(flatten)]
        device: FleetDevice,
        /// Shown on its screen
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Put another box in the place of one, under the same name
    Replace {
        #[command(flatten)]
        at: FleetDir,
        /// The box that goes: an id, the beginning of one, or a node's name
        old: String,
        /// The box that comes and waits already; without it, the next with the same ticket and hardware
        new: Option<String>,
    },
    /// Let boxes in that wait, or come soon, without a look at each
    Window {
        #[command(flatten)]
        at: FleetDir,
        /// For how long
        #[arg(long, value_name = "N", default_value_t = 30)]
        minutes: u32,
        /// How many
        #[arg(long, value_name = "N", default_value_t = 1)]
        boxes: u32,
        /// Only of this batch
        #[arg(long, value_name = "NAME")]
        batch: Option<String>,
    },
    /// Withdraw a ticket, a bundle, or all that a root signed; who has joined stays
    Withdraw {
        #[command(flatten)]
        at: FleetDir,
        /// What
        #[arg(value_parser = ["ticket", "bundle", "signer"])]
        kind: String,
        /// Its id
        id: String,
        /// Shown on screens
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Copy the database to a new file, while the endpoint runs
    Backup {
        #[command(flatten)]
        at: FleetDir,
        /// Must not be there yet
        file: PathBuf,
    },
}

/// What a new endpoint is called.
#[derive(Debug, Args)]
pub struct FleetNaming {
    /// The fleet's name, as its bundles have it [default: the directory's]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Names and addresses in its certificate, for browsers; boxes know it by its key
    #[arg(long, value_name = "HOST", default_value = "localhost")]
    pub host: Vec<String>,
}

/// Where the endpoint's directory is.
#[derive(Debug, Args)]
pub struct FleetDir {
    /// The endpoint's directory
    #[arg(long, value_name = "DIR", env = "FORGE_FLEET", default_value = "fleet")]
    pub dir: PathBuf,
}

/// Which box.
#[derive(Debug, Args)]
pub struct FleetDevice {
    /// An id, the beginning of one, or a node's name
    pub device: String,
}
