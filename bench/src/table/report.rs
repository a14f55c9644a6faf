//! The table as Markdown.

use std::fmt::Write as _;

use clap::Parser;

use super::figures::{FIRST, Figure, HUGE, LARGE, Ledger, Line, SPREAD};
use super::plan::{Plan, Sizes};

/// Figures of one mesh, under one heading.
struct Group {
    heading: String,
    figures: &'static [(Figure, Line)],
    /// Whether the sizes are those that the targets are for.
    as_aimed: bool,
}

#[derive(Parser)]
struct Defaults {
    #[command(flatten)]
    sizes: Sizes,
}

/// The table, of all measured figures.
pub fn markdown(plan: &Plan, ledger: &Ledger) -> String {
    let mut out = format!(
        "### The table\n\n\
         A real kube-apiserver and etcd, the control plane's release binary, simulated proxies over mutual TLS; all on the cores named above. \
         {} runs, each with a fresh control plane; {} changes of each kind in each run, and one before them that is not counted. \
         Every proxy uses the services that change, so each change goes to all of them, but a policy, which goes to the {} pods that it selects. \
         Of the many changes ({} a second for {} s), {}. \
         Times are from the API server's acknowledgment of the write to the arrival at the streams, pooled over proxies and changes.\n",
        plan.runs,
        plan.rounds,
        crate::mesh::PODS,
        plan.sizes.storm_rate,
        plan.sizes.storm_seconds,
        match plan.storm_common {
            0 => "none is of a service that all use".to_owned(),
            of => format!("every {of}th is of a service that all use"),
        },
    );
    for group in groups(&plan.sizes) {
        out.push_str(&table(&group, ledger));
    }
    out
}

fn groups(sizes: &Sizes) -> [Group; 4] {
    let defaults = Defaults::parse_from(["table"]).sizes;
    let heading = |services, proxies, uses| {
        format!("{services} services of 10 pods, {proxies} proxies that use {uses} services each")
    };
    let first = Sizes {
        large_services: defaults.large_services,
        large_proxies: defaults.large_proxies,
        huge_services: defaults.huge_services,
        huge_proxies: defaults.huge_proxies,
        huge_uses: defaults.huge_uses,
        ..sizes.clone()
    };
    [
        Group {
            heading: heading(sizes.services, sizes.proxies, sizes.uses),
            figures: FIRST,
            as_aimed: first == defaults,
        },
        Group {
            heading: format!(
                "Two replicas, {} proxies that hang on the first when the second joins",
                sizes.proxies
            ),
            figures: SPREAD,
            as_aimed: first == defaults,
        },
        Group {
            heading: heading(sizes.large_services, sizes.large_proxies, sizes.uses),
            figures: LARGE,
            as_aimed: (sizes.large_services, sizes.large_proxies)
                == (defaults.large_services, defaults.large_proxies),
        },
        Group {
            heading: heading(sizes.huge_services, sizes.huge_proxies, sizes.huge_uses),
            figures: HUGE,
            as_aimed: (sizes.huge_services, sizes.huge_proxies, sizes.huge_uses)
                == (
                    defaults.huge_services,
                    defaults.huge_proxies,
                    defaults.huge_uses,
                ),
        },
    ]
}

fn table(group: &Group, ledger: &Ledger) -> String {
    let mut rows = String::new();
    for (figure, line) in group.figures {
        let Some(sample) = ledger.sample(*figure) else {
            continue;
        };
        let target = line
            .target
            .map_or(String::new(), |target| target.to_string());
        let met = match line.target {
            Some(target) if group.as_aimed => {
                if sample.median() <= target {
                    "yes"
                } else {
                    "**no**"
                }
            }
            _ => "",
        };
        // Writing to a String can't fail.
        let _ = writeln!(
            rows,
            "| {} | {} | {} | {target} | {} | {met} |",
            line.what,
            line.unit,
            line.istiod,
            sample.spread(line.decimals)
        );
    }
    if rows.is_empty() {
        return rows;
    }
    let strange = if group.as_aimed {
        ""
    } else {
        "\nThese are not the sizes that istiod was measured with and that the targets are for.\n"
    };
    format!(
        "\n#### {}\n{strange}\n| what | unit | istiod | target | Heddle | met |\n|---|---|---|---|---|---|\n{rows}",
        group.heading
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        plan: Plan,
    }

    #[test]
    fn a_table_has_what_was_measured_and_judges_only_at_the_right_size() {
        let mut ledger = Ledger::default();
        ledger.note(Figure::EndpointP50, 8.0);
        ledger.note(Figure::EndpointP99, 80.0);
        let plan = Line::parse_from(["x"]).plan;
        let text = markdown(&plan, &ledger);
        assert!(
            text.contains("| endpoint change, p50 | ms | 201 | 10 | 8.0 (8.0 to 8.0) | yes |"),
            "{text}"
        );
        assert!(
            text.contains("| **no** |") && !text.contains("5000 services"),
            "{text}"
        );
        let plan = Line::parse_from(["x", "--services", "50"]).plan;
        let text = markdown(&plan, &ledger);
        assert!(
            text.contains("not the sizes") && !text.contains("yes"),
            "{text}"
        );
    }

    #[test]
    fn each_figure_is_printed_once() {
        let all: Vec<Figure> = [FIRST, SPREAD, LARGE, HUGE]
            .iter()
            .flat_map(|list| list.iter().map(|(figure, _)| *figure))
            .collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        // Derived discriminants count from zero, and this is the last.
        assert_eq!(all.len(), Figure::ChangeCompile as usize + 1);
    }
}
