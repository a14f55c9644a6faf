//! The stream to the control plane: orders come, requests go.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use heddle_xds_types::tap::{MAX_ROWS_OF_REPORT, METHOD, TapOrders, TapReport, TapRow};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tonic::Streaming;

use super::Lost;
use super::orders::Orders;
use super::request::Seen;
use crate::control_plane;
use crate::secrets::Secrets;
use crate::settings::Settings;

/// Requests are sent together, this often.
const INTERVAL: Duration = Duration::from_millis(200);
/// A stream without taps ends after this time. The replicas of the control plane hear of a tap one after the other.
const GRACE: Duration = Duration::from_secs(10);
/// Requests that come so long after the last tap has ended are of no use.
const LATE: Duration = Duration::from_secs(5);
/// Requests that wait for the first tap.
const WAITING: usize = 256;
/// Messages on the way to the control plane.
const IN_FLIGHT: usize = 8;

/// How a stream ends well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// No tap is left.
    Quiet,
    /// No tap is left, and Envoy sends requests all the same.
    Unwanted,
}

/// One open stream.
pub(super) struct Stream<'a> {
    reports: mpsc::Sender<TapReport>,
    answers: Streaming<TapOrders>,
    orders: Orders,
    /// Until the first tap.
    waiting: Option<VecDeque<Seen>>,
    rows: Vec<TapRow>,
    lost: &'a Lost,
    /// Whether there was a tap on this stream.
    pub(super) served: bool,
}

impl<'a> Stream<'a> {
    pub(super) async fn open(
        settings: &Settings,
        secrets: &watch::Receiver<Secrets>,
        lost: &'a Arc<Lost>,
        first: Seen,
    ) -> Result<Self> {
        let (reports, outgoing) = mpsc::channel(IN_FLIGHT);
        let hello = TapReport {
            node: settings.node_id(),
            ..TapReport::default()
        };
        reports.send(hello).await?;
        let answers = control_plane::stream(settings, secrets, METHOD, outgoing).await?;
        Ok(Self {
            reports,
            answers,
            orders: Orders::new(settings.id.to_string()),
            waiting: Some(VecDeque::from([first])),
            rows: Vec::new(),
            lost,
            served: false,
        })
    }

    /// Runs until no tap is left.
    pub(super) async fn run(&mut self, requests: &mut mpsc::Receiver<Seen>) -> Result<Ended> {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut idle, mut late) = (Instant::now(), false);
        loop {
            tokio::select! {
                orders = self.answers.message() => {
                    let orders = orders?.context("the control plane ended the stream")?;
                    self.ordered(orders);
                }
                Some(seen) = requests.recv() => {
                    late |= idle.elapsed() >= LATE;
                    self.take(seen);
                }
                _ = ticks.tick() => self.send(),
            }
            if !self.orders.is_over(Instant::now()) {
                (idle, late, self.served) = (Instant::now(), false, true);
            } else if idle.elapsed() >= GRACE {
                return Ok(match late {
                    true => Ended::Unwanted,
                    false => Ended::Quiet,
                });
            }
        }
    }

    fn ordered(&mut self, orders: TapOrders) {
        let none = orders.orders.is_empty();
        self.orders.take(orders.orders, Instant::now());
        if none {
            // The replica may hear of the tap a moment later than the one that woke the logger.
            return;
        }
        for seen in self.waiting.take().into_iter().flatten() {
            self.take(seen);
        }
    }

    fn take(&mut self, seen: Seen) {
        match &mut self.waiting {
            Some(waiting) if waiting.len() < WAITING => waiting.push_back(seen),
            Some(_) => self.lost.add(1),
            None => {
                self.rows.extend(self.orders.row(seen, Instant::now()));
                if self.rows.len() >= MAX_ROWS_OF_REPORT {
                    self.send();
                }
            }
        }
    }

    /// Sends all that there is. Requests that the control plane does not take are lost, and counted.
    fn send(&mut self) {
        let left_out = self.orders.left_out();
        if self.rows.is_empty() && left_out.is_empty() && !self.lost.is_any() {
            return;
        }
        let report = TapReport {
            node: String::new(),
            rows: std::mem::take(&mut self.rows),
            left_out,
            lost: self.lost.take(),
        };
        if let Err(unsent) = self.reports.try_send(report) {
            let report = unsent.into_inner();
            let left_out: u64 = report.left_out.iter().map(|left| left.count).sum();
            self.lost
                .add(report.lost + left_out + report.rows.len() as u64);
        }
    }
}
