//! Requests per core, as Markdown.

use std::fmt::Write as _;

use super::{Case, Plan, Way};

/// The figures as Markdown.
pub fn markdown(plan: &Plan, cases: &[Case]) -> String {
    let mut out = format!(
        "\n### Requests per core\n\n\
         Requests for each second of CPU, user and system, of the two proxies (of Heddle's sidecars Envoys and agents). 1 kB in every answer; \
         gRPC and TCP send 1 kB, too. Each connection sends the next request when the last is answered. {} rounds of {} s each way, by turns. \
         Each Envoy has {} worker thread(s). Heddle: every default feature on, Strict mTLS, default Deny and an AuthPolicy. Hand-written: mTLS \
         with one exact identity, no policy, no metrics of edges. Times in µs, p50 / p99, medians of the rounds.\n\n\
         | | connections | pair, requests per core | Heddle, requests per core | Heddle to pair | direct | pair | Heddle |\n\
         |---|---|---|---|---|---|---|---|\n",
        plan.rounds,
        plan.turn.as_secs(),
        plan.concurrency
    );
    for case in cases {
        let per_core = |way| case.over(way, |turn| turn.per_core).spread(0);
        let times = |way| {
            let [p50, p99] = [
                case.over(way, |turn| turn.p50),
                case.over(way, |turn| turn.p99),
            ];
            format!("{:.0} / {:.0}", p50.median(), p99.median())
        };
        // Writing to a String can't fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            case.protocol.name(),
            case.connections,
            per_core(Way::Pair),
            per_core(Way::Heddle),
            case.ratio().spread(2),
            times(Way::Direct),
            times(Way::Pair),
            times(Way::Heddle)
        );
    }
    out
}
