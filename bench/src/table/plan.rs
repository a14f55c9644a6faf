//! The figures to measure, and the size of the mesh.

use std::time::Duration;

use clap::{Args, ValueEnum};

/// A part of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Case {
    /// Certificates for all proxies, by CSR and token.
    Enrol,
    /// One endpoint of a service that all use changes.
    Endpoint,
    /// A split of a service that all use changes.
    Split,
    /// A policy of a service that all use changes.
    Policy,
    /// Changes of metadata only.
    Metadata,
    /// The control plane is killed and restarted.
    Restart,
    /// Many endpoint changes a second.
    Storm,
    /// A second replica joins one that all proxies hang on.
    Spread,
    /// One endpoint changes, with one proxy alone.
    Single,
    /// A large mesh and a few proxies.
    Large,
    /// A very large mesh and many proxies.
    Huge,
}

/// Sizes; the defaults are those of the table.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Sizes {
    /// Services, of 10 pods each.
    #[arg(long, default_value_t = 1000)]
    pub services: usize,
    /// Proxies that connect at once.
    #[arg(long, default_value_t = 1000)]
    pub proxies: usize,
    /// Services that each proxy uses.
    #[arg(long, default_value_t = 5)]
    pub uses: usize,
    /// Services of the large mesh.
    #[arg(long, default_value_t = 5000)]
    pub large_services: usize,
    /// Proxies of the large mesh.
    #[arg(long, default_value_t = 100)]
    pub large_proxies: usize,
    /// Services of the very large mesh.
    #[arg(long, default_value_t = 10_000)]
    pub huge_services: usize,
    /// Proxies of the very large mesh.
    #[arg(long, default_value_t = 5000)]
    pub huge_proxies: usize,
    /// Services that each of these uses.
    #[arg(long, default_value_t = 20)]
    pub huge_uses: usize,
    /// Endpoint changes a second, of many.
    #[arg(long, default_value_t = 100)]
    pub storm_rate: u32,
    /// Seconds of them.
    #[arg(long, default_value_t = 60)]
    pub storm_seconds: u32,
}

/// The run's parameters.
#[derive(Debug, Clone, Args)]
#[group(id = "table")]
pub struct Plan {
    /// Sizes.
    #[command(flatten)]
    pub sizes: Sizes,
    /// Only these cases; default: all. The first synchronization and the memory are always measured.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Case>,
    /// Runs, each with a fresh control plane.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Changes of each kind in each run.
    #[arg(long, default_value_t = 20)]
    pub rounds: usize,
    /// Of the many changes, each of so many is one of the service that all use.
    #[arg(long, default_value_t = 10)]
    pub storm_common: u32,
    /// With an API server that streams no lists, as Kubernetes before 1.32: the control plane reads them in pages.
    #[arg(long)]
    pub no_watch_list: bool,
}

impl Plan {
    /// Whether a case is to be measured.
    pub fn has(&self, case: Case) -> bool {
        self.only.is_empty() || self.only.contains(&case)
    }

    /// Whether anything of the first mesh is.
    pub fn has_first(&self) -> bool {
        let other = [Case::Single, Case::Spread, Case::Large, Case::Huge];
        self.only.is_empty() || self.only.iter().any(|case| !other.contains(case))
    }
}

/// A whole fleet has to come up in this time.
pub const SYNC: Duration = Duration::from_secs(300);
/// A change has to arrive everywhere in this time.
pub const CHANGE: Duration = Duration::from_secs(60);
/// Between changes: the consequences of one (removals, ACKs under way) are over by then.
pub const REST: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        plan: Plan,
    }

    #[test]
    fn cases_are_chosen_and_the_defaults_are_the_tables() {
        let plan = Line::parse_from(["x"]).plan;
        assert!(plan.has(Case::Huge) && plan.has_first());
        assert_eq!((plan.sizes.huge_services, plan.sizes.uses), (10_000, 5));
        let plan = Line::parse_from(["x", "--only", "huge,single"]).plan;
        assert!(plan.has(Case::Single) && !plan.has(Case::Storm) && !plan.has_first());
        assert!(
            Line::parse_from(["x", "--only", "restart"])
                .plan
                .has_first()
        );
    }
}
