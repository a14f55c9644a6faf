//! Amounts of processor time and memory.

use std::collections::BTreeMap;

use heddle_policy_compiler::injection::names::PROXY_RESOURCES;
use heddle_policy_compiler::injection::nanos;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Serialize;

const MIB: u64 = 1 << 20;
/// A proposal is so much more than the highest use, in percent.
const RESERVE: u64 = 25;
/// The least and the step of a proposal: thousandths of a core.
const CPU: (u64, u64) = (10, 5);
/// The least and the step of a proposal: MiB. An idle sidecar uses some 45.
const MEMORY: (u64, u64) = (64, 16);

/// An amount for one sidecar, or for several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// Thousandths of a core.
    #[serde(rename = "cpuMilli")]
    pub cpu: u64,
    /// Bytes.
    #[serde(rename = "memoryBytes")]
    pub memory: u64,
}

impl Amount {
    /// The amounts of a container. One that is left out is zero.
    pub fn of(quantities: Option<&BTreeMap<String, Quantity>>) -> Self {
        let of = |name: &str| quantities.and_then(|all| Some(&*all.get(name)?.0));
        Self::parse(of("cpu"), of("memory"))
    }

    /// The same from texts.
    pub fn parse(cpu: Option<&str>, memory: Option<&str>) -> Self {
        let of = |text: Option<&str>, unit: u128| {
            let amount = text.and_then(nanos).unwrap_or(0).div_ceil(unit);
            u64::try_from(amount).unwrap_or(u64::MAX)
        };
        Self {
            cpu: of(cpu, 1_000_000),
            memory: of(memory, 1_000_000_000),
        }
    }

    /// Takes the larger one of each.
    pub fn raise(&mut self, other: Self) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
    }

    /// Adds another amount so many times.
    pub fn add(&mut self, other: Self, times: u64) {
        let sum = |own: u64, more: u64| own.saturating_add(more.saturating_mul(times));
        self.cpu = sum(self.cpu, other.cpu);
        self.memory = sum(self.memory, other.memory);
    }

    /// The requests that this use supports: with a reserve, in whole steps.
    pub fn proposal(self) -> Self {
        let with = |used: u64, (least, step): (u64, u64)| {
            let reserved = used.saturating_add(used.saturating_mul(RESERVE).div_ceil(100));
            reserved.max(least).div_ceil(step).saturating_mul(step)
        };
        Self {
            cpu: with(self.cpu, CPU),
            memory: with(self.memory.div_ceil(MIB), MEMORY).saturating_mul(MIB),
        }
    }

    /// The same, at most the limits. A limit of zero is none.
    pub fn within(self, limits: Self) -> Self {
        let within = |amount: u64, limit: u64| match limit {
            0 => amount,
            limit => amount.min(limit),
        };
        Self {
            cpu: within(self.cpu, limits.cpu),
            memory: within(self.memory, limits.memory),
        }
    }

    /// The annotation of a pod template that requests it and keeps the other entries of the pod's own annotation.
    pub fn annotation(self, own: &str) -> String {
        let (cpu, memory) = (cpu(self.cpu), memory(self.memory));
        let mut text = format!("{PROXY_RESOURCES}: requests.cpu={cpu},requests.memory={memory}");
        let entries = own
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty());
        for entry in entries {
            let name = entry.split('=').next().unwrap_or_default().trim();
            if !matches!(name, "requests.cpu" | "requests.memory") {
                text.push(',');
                text.push_str(entry);
            }
        }
        text
    }
}

/// Processor time as Kubernetes writes it.
pub fn cpu(milli: u64) -> String {
    format!("{milli}m")
}

/// Memory as Kubernetes writes it, in whole MiB.
pub fn memory(bytes: u64) -> String {
    format!("{}Mi", bytes.div_ceil(MIB))
}
