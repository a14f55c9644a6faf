//! Failures between the control plane and the API server while the mesh changes.

use std::time::Duration;

use anyhow::Result;
use heddle_bench::cluster::ApiServer;
use heddle_bench::random::Random;

use super::cutter::Cutter;

/// The interval at which etcd is compacted: it forgets its history.
pub const COMPACTION: Duration = Duration::from_secs(5);
/// The state of a moment is forgotten after the second compaction.
pub const FORGOTTEN: Duration = Duration::from_secs(11);
/// Between two cuts at most: the auditor lists everything in a few seconds, and has to come to that, too.
const PEACE: Duration = Duration::from_secs(20);
/// One in four cuts lasts, for so long at most.
const LASTING: Duration = Duration::from_secs(4);
/// After the API server is back, everything is listed again: cuts meet lists that are under way.
const TORN: usize = 24;
const TEAR: Duration = Duration::from_millis(1000);

/// And then nothing changes and nothing is cut: an audit of a mesh at rest is the sharpest.
const REST: Duration = Duration::from_secs(20);

/// Cuts again and again, until it is dropped.
pub async fn cuts(cutter: &Cutter, random: &mut Random, count: &mut usize) {
    loop {
        tokio::time::sleep(PEACE.mul_f64(random.share())).await;
        *count += 1;
        if random.below(4) > 0 {
            cutter.cut();
            continue;
        }
        cutter.shut();
        tokio::time::sleep(LASTING.mul_f64(random.share())).await;
        cutter.open();
    }
}

/// The API server is replaced while the control plane is cut off: its watches ask for a revision that is forgotten, and get
/// 410 Gone.
///
/// # Errors
/// When it does not come back.
pub async fn forget(
    server: &mut ApiServer,
    cutter: &Cutter,
    random: &mut Random,
    count: &mut usize,
) -> Result<()> {
    server.restart().await?;
    cutter.open();
    for _ in 0..TORN {
        tokio::time::sleep(TEAR.mul_f64(random.share())).await;
        *count += 1;
        cutter.cut();
    }
    tokio::time::sleep(REST).await;
    Ok(())
}
