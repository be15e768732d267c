//! What the daemon is told on its command line: typed, with defaults, checked against limits.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, error::ErrorKind};

use crate::{
    events::{SyslogFacility, SyslogTarget},
    host::PlaneWish,
    resolver::{
        attestation::broker::{BrokerAddress, BrokerConfig},
        spiffe::SpiffeId,
    },
};

const RING_PAGE: u32 = 4096;
const SHORTEST_UNUSED: Duration = Duration::from_secs(1);
const LONGEST_UNUSED: Duration = Duration::from_hours(24 * 3650);

/// Run the daemon.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The daemon attaches its programs and pins them below the bpffs: ending it leaves enforcement in
place, `agent-enforcer detach` takes it away.

Example, everything in one place for a trial:
  agent-enforcer run --policy ./policy --state-dir ./state --runtime-dir ./run --events ./events.jsonl")]
pub struct RunArgs {
    /// Directory of the control socket; the global option.
    #[arg(skip)]
    pub runtime_dir: PathBuf,
    /// Directory of the policy files.
    #[arg(long, value_name = "DIR", default_value = "/etc/agent-enforcer/policy")]
    pub policy: PathBuf,
    /// What signed grants for this host name in `aud` [default: the host's name].
    #[arg(long, value_name = "NAME")]
    pub audience: Option<String>,
    /// Directory of the grants and whatever else outlives the daemon.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/agent-enforcer")]
    pub state_dir: PathBuf,
    /// File that events are appended to, one JSON line each.
    #[arg(long, value_name = "FILE", default_value = "/var/log/agent-enforcer/events.jsonl")]
    pub events: PathBuf,
    /// Send events to syslog as well (RFC 5424): `unix:/dev/log`, `udp:HOST:PORT` or
    /// `tcp:HOST:PORT`; can be given more than once.
    #[arg(long, value_name = "TARGET")]
    pub syslog: Vec<SyslogTarget>,
    /// Where the SPIFFE broker of this host is, which vouches for agents with `attestation: spiffe`:
    /// `unix:PATH` or `tcp:HOST:PORT`.
    #[arg(long, value_name = "ADDRESS")]
    #[arg(requires_all = ["spiffe_broker_id", "spiffe_svid", "spiffe_key", "spiffe_bundle"])]
    pub spiffe_broker: Option<BrokerAddress>,
    /// The SPIFFE ID that the broker must have.
    #[arg(long, value_name = "SPIFFE_ID", requires = "spiffe_broker")]
    pub spiffe_broker_id: Option<SpiffeId>,
    /// The daemon's own X.509-SVID with its chain, PEM; read for each connection to the broker.
    #[arg(long, value_name = "FILE", requires = "spiffe_broker")]
    pub spiffe_svid: Option<PathBuf>,
    /// The private key of that SVID, PEM.
    #[arg(long, value_name = "FILE", requires = "spiffe_broker")]
    pub spiffe_key: Option<PathBuf>,
    /// The X.509 authorities of the broker's trust domain, PEM.
    #[arg(long, value_name = "FILE", requires = "spiffe_broker")]
    pub spiffe_bundle: Option<PathBuf>,
    /// Facility of the syslog messages: `authpriv`, `auth`, `daemon`, `user`, `local0` to `local7`.
    #[arg(long, value_name = "NAME", default_value_t)]
    pub syslog_facility: SyslogFacility,
    /// Where the bpf file system is mounted.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
    /// Cgroup v2 directory to attach to [default: the root of the hierarchy]. Sockets made above it
    /// are not seen: for trials only.
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// Which kernel programs are put in force: those of BPF LSM as well where the kernel lists `bpf`
    /// among its security modules (`auto`), never (`cgroup`), or not starting without them (`lsm`).
    #[arg(long, value_enum, value_name = "PLANE", default_value_t)]
    pub plane: PlaneWish,
    /// What agents only read on the LSM plane, with all below it: files that services of the host act
    /// upon. Can be given more than once; what is given replaces the default.
    #[arg(long, value_name = "PATH", default_values = AGENTS_READ_ONLY)]
    pub agents_read_only: Vec<PathBuf>,
    /// Processes of agents that are tracked at the same time; more can't connect anywhere.
    #[arg(long, value_name = "N", default_value_t = 65_536)]
    #[arg(value_parser = clap::value_parser!(u32).range(1_024..=4_194_304))]
    pub max_processes: u32,
    /// Verdicts about exact destinations that the kernel remembers at the same time.
    #[arg(long, value_name = "N", default_value_t = 131_072)]
    #[arg(value_parser = clap::value_parser!(u32).range(1_024..=16_777_216))]
    pub max_verdicts: u32,
    /// Size of the ring buffer from the kernel, bytes; a power of two.
    #[arg(long, value_name = "N", default_value_t = 8 << 20, value_parser = ring_bytes)]
    pub ring_bytes: u32,
    /// Turns that a call waits in the hook for its answer; 0 never waits there.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub wait_turns: u32,
    /// Calls of all agents together that may wait for a decision.
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_pending: u32,
    /// Calls of one instance that may wait for a decision; at most `--max-pending`.
    #[arg(long, value_name = "N", default_value_t = 2_048)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_pending_per_instance: u32,
    /// Undecided calls per second that one instance may make before it is denied without asking.
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub requests_per_second: u64,
    /// An agent that did nothing for so long is a ghost: `unused`.
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = unused_after)]
    pub unused_after: Duration,
    /// How the daemon's own log is written.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub log: LogFormat,
}

/// Jobs, queues and units: whoever writes there has something done by a process that is not its own.
const AGENTS_READ_ONLY: [&str; 12] = [
    "/var/spool",
    "/etc/crontab",
    "/etc/cron.d",
    "/etc/cron.hourly",
    "/etc/cron.daily",
    "/etc/cron.weekly",
    "/etc/cron.monthly",
    "/etc/systemd",
    "/run/systemd/system",
    "/usr/local/lib/systemd",
    "/usr/lib/systemd",
    "/etc/udev",
];

/// Form of the daemon's own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// To the systemd journal, with fields.
    Journald,
    /// Lines for people on standard error.
    #[default]
    Text,
    /// JSON lines on standard error.
    Json,
}

impl RunArgs {
    /// The SPIFFE broker, where there is one.
    pub fn broker(&self) -> Option<BrokerConfig> {
        Some(BrokerConfig {
            address: self.spiffe_broker.clone()?,
            id: self.spiffe_broker_id.clone()?,
            svid: self.spiffe_svid.clone()?,
            key: self.spiffe_key.clone()?,
            bundle: self.spiffe_bundle.clone()?,
        })
    }

    /// What no single value can say.
    pub(super) fn validate(&self) -> Result<(), clap::Error> {
        if self.max_pending_per_instance > self.max_pending {
            let message = format!(
                "--max-pending-per-instance {} is more than --max-pending {}: lower it, or raise the other\n",
                self.max_pending_per_instance, self.max_pending
            );
            return Err(clap::Error::raw(ErrorKind::ValueValidation, message));
        }
        Ok(())
    }
}

fn unused_after(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a duration such as 12h or 30d"))?;
    if !(SHORTEST_UNUSED..=LONGEST_UNUSED).contains(&duration) {
        return Err("it is from 1s to 3650d".to_owned());
    }
    Ok(duration)
}

fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes: u32 = text.parse().map_err(|error| format!("{error}; give bytes as a number"))?;
    if !bytes.is_power_of_two() || !(16 * RING_PAGE..=1 << 30).contains(&bytes) {
        return Err("give a power of two from 65536 to 1073741824".to_owned());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_without_use_has_limits() {
        assert_eq!(unused_after("30d"), Ok(Duration::from_hours(30 * 24)));
        assert_eq!(unused_after("1s"), Ok(SHORTEST_UNUSED));
        for bad in ["0s", "999ms", "30", "3651d", "11 years", "-1d", ""] {
            assert!(unused_after(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ring_must_be_a_power_of_two_within_its_limits() {
        assert_eq!(ring_bytes("65536"), Ok(65_536));
        assert_eq!(ring_bytes("1073741824"), Ok(1 << 30));
        for bad in ["0", "4096", "65537", "2147483648", "-1", "8M", "99999999999"] {
            assert!(ring_bytes(bad).is_err(), "{bad}");
        }
    }
}
