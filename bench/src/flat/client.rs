//! The application in the measured pod: calls addresses, each once, some at a time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::{StreamExt, stream};

use crate::load;
use crate::place::Place;
use crate::stats::Sample;

/// The result of the calls.
#[derive(Debug, Clone)]
pub struct Calls {
    /// Milliseconds of those that were answered.
    pub times: Sample,
    /// How many were not.
    pub failed: usize,
}

/// Calls each address once. Of those that fail, the first is told of.
///
/// # Errors
/// When the place can't be entered, or an address is none.
pub async fn call(
    place: &Place,
    addresses: &[String],
    at_once: usize,
    within: Duration,
) -> Result<Calls> {
    let addresses = addresses
        .iter()
        .map(|address| address.parse())
        .collect::<Result<Vec<SocketAddr>, _>>()?;
    place
        .wait(move || async move {
            let mut calls = stream::iter(addresses)
                .map(async |address| {
                    let from = Instant::now();
                    let answer = load::once(address, "service", within).await;
                    (address, from.elapsed(), answer)
                })
                .buffer_unordered(at_once);
            let (mut times, mut failed) = (Vec::new(), 0);
            while let Some((address, took, answer)) = calls.next().await {
                match answer {
                    Ok(()) => times.push(took.as_secs_f64() * 1e3),
                    Err(error) => {
                        failed += 1;
                        if failed == 1 {
                            eprintln!("call of {address}: {error:#}");
                        }
                    }
                }
            }
            Ok(Calls {
                times: Sample::new(times),
                failed,
            })
        })
        .await
}
