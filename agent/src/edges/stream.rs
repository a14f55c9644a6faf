//! The stream of reports: opened when there is something to report, and closed when there was nothing for a while.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use heddle_xds_types::edges::{
    EdgeDelta, EdgeName, EdgeReport, MAX_EDGES_OF_REPORT, MAX_EDGES_OF_SIDECAR, METHOD,
};
use tokio::sync::{mpsc, watch};
use tonic::Streaming;

use super::{Lost, Traffic};
use crate::control_plane::{self, TIMEOUT};
use crate::secrets::Secrets;
use crate::settings::Settings;

/// A stream without reports for this long is closed, so that idle sidecars cost the control plane no connection.
const IDLE: Duration = Duration::from_secs(60);
/// The effect of a stream that fails.
const UNREPORTED: &str = "traffic is not reported";
/// Messages on the way to the control plane.
const IN_FLIGHT: usize = 8;

/// Sends readings for ever.
pub(super) async fn send(
    settings: &Settings,
    secrets: &watch::Receiver<Secrets>,
    mut readings: mpsc::Receiver<Traffic>,
    lost: &Lost,
) {
    let mut attempt = 0;
    while let Some(first) = readings.recv().await {
        match Sender::open(settings, secrets, lost).await {
            Ok(mut sender) => match sender.run(first, &mut readings).await {
                Ok(()) => attempt = 0,
                Err(error) => control_plane::pause(&error, UNREPORTED, &mut attempt).await,
            },
            Err(error) => {
                lost.traffic(&first);
                control_plane::pause(&error, UNREPORTED, &mut attempt).await;
            }
        }
    }
}

/// One open stream.
struct Sender<'a> {
    node: String,
    lost: &'a Lost,
    reports: mpsc::Sender<EdgeReport>,
    /// Nothing comes on it but its end.
    answers: Streaming<()>,
    /// The numbers that stand for edges on this stream.
    numbers: HashMap<EdgeName, u32>,
}

impl<'a> Sender<'a> {
    async fn open(
        settings: &Settings,
        secrets: &watch::Receiver<Secrets>,
        lost: &'a Lost,
    ) -> Result<Self> {
        let (reports, outgoing) = mpsc::channel(IN_FLIGHT);
        let answers = control_plane::stream(settings, secrets, METHOD, outgoing).await?;
        Ok(Self {
            node: settings.node_id(),
            lost,
            reports,
            answers,
            numbers: HashMap::new(),
        })
    }

    /// Sends readings until there are none for a while.
    async fn run(&mut self, first: Traffic, readings: &mut mpsc::Receiver<Traffic>) -> Result<()> {
        let mut next = Some(first);
        loop {
            if let Some(traffic) = next.take() {
                self.send(traffic).await?;
            }
            let reading = tokio::time::timeout(IDLE, readings.recv());
            tokio::select! {
                reading = reading => match reading {
                    Ok(Some(traffic)) => next = Some(traffic),
                    Ok(None) | Err(_) => return Ok(()),
                },
                ended = self.answers.message() => {
                    ended?;
                    anyhow::bail!("the control plane ended the stream");
                }
            }
        }
    }

    async fn send(&mut self, traffic: Traffic) -> Result<()> {
        let all: Vec<_> = traffic.iter().collect();
        let mut sent = 0;
        for some in all.chunks(MAX_EDGES_OF_REPORT) {
            let lost = self.lost.take();
            let report = EdgeReport {
                node: self.node.clone(),
                edges: some
                    .iter()
                    .map(|(name, counts)| {
                        let (number, name) = self.number(name);
                        EdgeDelta::new(number, name, counts)
                    })
                    .collect(),
                lost,
            };
            let sending = tokio::time::timeout(TIMEOUT, self.reports.send(report));
            if !matches!(sending.await, Ok(Ok(()))) {
                self.lost.add(lost);
                let unsent = all.iter().skip(sent);
                let unsent = unsent.map(|(name, counts)| ((*name).clone(), (*counts).clone()));
                self.lost.traffic(&unsent.collect());
                anyhow::bail!("the control plane takes no reports");
            }
            sent += some.len();
        }
        Ok(())
    }

    /// Returns the number of an edge, with its name if the stream does not have it. When the numbers are used up, all are given again.
    fn number(&mut self, name: &EdgeName) -> (u32, Option<EdgeName>) {
        if let Some(number) = self.numbers.get(name) {
            return (*number, None);
        }
        if self.numbers.len() >= MAX_EDGES_OF_SIDECAR {
            self.numbers.clear();
        }
        let number = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        self.numbers.insert(name.clone(), number);
        (number, Some(name.clone()))
    }
}
