//! The figures of the curve.

use std::collections::{BTreeMap, BTreeSet};

use super::client::Calls;
use super::sidecar::Held;
use crate::stats::Sample;

/// The calls that a sidecar's application has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing.
    Started,
    /// Five services.
    Few,
    /// Fifty services.
    Many,
    /// 300 pods of a headless service.
    Pods,
    /// Five services, then a scan.
    Scan,
}

impl Stage {
    /// All, in the order in which they are shown.
    pub const ALL: [Self; 5] = [Self::Started, Self::Few, Self::Many, Self::Pods, Self::Scan];

    /// In words.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Started => "nothing called yet",
            Self::Few => "5 services",
            Self::Many => "50 services",
            Self::Pods => "300 pods of a headless service",
            Self::Scan => "5 services, and a scan",
        }
    }

    /// At most so many MB are aimed at.
    pub const fn target(self) -> Option<f64> {
        match self {
            Self::Few => Some(20.0),
            Self::Many => Some(25.0),
            Self::Pods => Some(40.0),
            Self::Started | Self::Scan => None,
        }
    }
}

/// One measurement.
#[derive(Debug, Clone)]
pub(super) struct Point {
    pub(super) held: Held,
    /// The first calls to each address.
    pub(super) calls: Option<Calls>,
}

/// All measurements, by the mesh's services and by stage.
#[derive(Debug, Clone, Default)]
pub struct Curve(BTreeMap<(usize, Stage), Vec<Point>>);

impl Curve {
    pub(super) fn note(&mut self, services: usize, stage: Stage, point: Point) {
        self.0.entry((services, stage)).or_default().push(point);
    }

    /// The meshes measured.
    pub fn meshes(&self) -> BTreeSet<usize> {
        self.0.keys().map(|(services, _)| *services).collect()
    }

    /// MB of each run.
    pub fn memory(&self, services: usize, stage: Stage) -> Option<Sample> {
        self.over(services, stage, |point| Some(point.held.memory))
    }

    /// KiB from the control plane in each run.
    pub fn received(&self, services: usize, stage: Stage) -> Option<Sample> {
        self.over(services, stage, |point| {
            Some(point.held.received as f64 / 1024.0)
        })
    }

    /// A quantile of the first calls' milliseconds in each run.
    pub fn first_calls(&self, services: usize, stage: Stage, share: f64) -> Option<Sample> {
        self.over(services, stage, |point| {
            Some(point.calls.as_ref()?.times.quantile(share))
        })
    }

    /// How many of the first calls were not answered in each run.
    pub fn failed(&self, services: usize, stage: Stage) -> Option<Sample> {
        self.over(services, stage, |point| {
            Some(point.calls.as_ref()?.failed as f64)
        })
    }

    /// The largest median of a stage above the smallest, in percent.
    pub fn spread(&self, stage: Stage) -> Option<f64> {
        let meshes = self.meshes().into_iter();
        let medians = meshes.filter_map(|services| Some(self.memory(services, stage)?.median()));
        let medians = Sample::new(medians);
        (medians.len() > 1).then(|| (medians.max() / medians.min() - 1.0) * 100.0)
    }

    fn over(
        &self,
        services: usize,
        stage: Stage,
        figure: impl Fn(&Point) -> Option<f64>,
    ) -> Option<Sample> {
        let sample = Sample::new(self.0.get(&(services, stage))?.iter().filter_map(figure));
        (!sample.is_empty()).then_some(sample)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn curve() -> Curve {
        let mut curve = Curve::default();
        for (services, memory) in [(100, 18.0), (1000, 18.5), (10_000, 18.9)] {
            for run in 0..3 {
                let held = Held {
                    memory: memory + f64::from(run) * 0.1,
                    received: 40 * 1024,
                };
                let calls = Some(Calls {
                    times: Sample::new([5.0, 6.0, 7.0]),
                    failed: 0,
                });
                curve.note(services, Stage::Few, Point { held, calls });
            }
        }
        curve
    }

    #[test]
    fn the_spread_is_between_meshes() {
        let curve = curve();
        assert_eq!(curve.meshes().len(), 3);
        let spread = curve.spread(Stage::Few).unwrap();
        assert!((spread - 4.97).abs() < 0.01, "{spread}");
        assert!(curve.spread(Stage::Many).is_none());
        let calls = curve.first_calls(100, Stage::Few, 0.99).unwrap();
        assert_eq!(calls.median(), 7.0);
    }
}
