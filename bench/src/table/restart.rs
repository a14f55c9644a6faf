//! The control plane is killed and started again at once; meanwhile an endpoint changes. All are in sync again when
//! every proxy has that change: a server without news for a proxy sends it nothing.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::figures::{Figure, Ledger};
use super::plan::SYNC;
use super::stage::Ground;
use crate::change::Change;
use crate::mesh::{CHANGING, resource_part};
use crate::objects::Ready;
use crate::operator::Operator;
use crate::probe::{Probe, milliseconds};
use crate::sim::Fleet;
use crate::stats::Sample;

/// All other responses have come by then.
const SETTLE: Duration = Duration::from_secs(2);

/// Kills and restarts; the new control plane.
///
/// # Errors
/// When it does not come back, or not all proxies do.
pub async fn run(
    ground: &Ground,
    operator: Operator,
    fleet: &Fleet,
    ledger: &mut Ledger,
) -> Result<Operator> {
    ground.set_ready(CHANGING, Ready::all()).await?;
    tokio::time::sleep(SETTLE).await;
    let before = fleet.observer().total();
    let killed = Instant::now();
    operator.kill();
    let change = Change::Endpoints {
        name: resource_part(CHANGING),
        healthy: Ready::all_but_one().count(),
    };
    let probe = Probe::arm(fleet, change, fleet.size());
    ground.set_ready(CHANGING, Ready::all_but_one()).await?;
    let operator = Operator::start(&ground.launch).await?;
    let arrivals = probe.arrivals(SYNC).await?;
    tokio::time::sleep(SETTLE).await;
    let after = fleet.observer().total();

    let times = Sample::new(milliseconds(&arrivals, killed));
    ledger.note(Figure::RestartAll, times.max() / 1e3);
    let ready = operator.ready_after.as_secs_f64();
    ledger.note(Figure::RestartReady, ready);
    let unchanged = after.unchanged - before.unchanged;
    ledger.note(Figure::RestartUnchanged, unchanged as f64);
    let bytes = after.unchanged_bytes - before.unchanged_bytes;
    ledger.note(Figure::RestartUnchangedBytes, bytes as f64);
    eprintln!(
        "restart: {} resources and {} bytes sent to {} proxies, of which {unchanged} and {bytes} unchanged; {} streams broke",
        after.resources - before.resources,
        after.bytes - before.bytes,
        fleet.size(),
        fleet.broken()
    );
    Ok(operator)
}
