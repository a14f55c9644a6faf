//! The project's own tasks: `cargo xtask <task>`.

mod ci;
mod generate;
mod instructions;
mod new_kind;
mod repo;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use instructions::Purpose;
use repo::Repo;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of the Heddle repository")]
struct Arguments {
    /// The repository to work in; by default that of this program
    #[arg(long, global = true)]
    repository: Option<PathBuf>,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write every generated file: CRDs, RBAC of our kinds, Argo CD health checks, docs/api.md, lists of kinds
    Gen {
        /// Write nothing; fail and name the files that differ
        #[arg(long)]
        check: bool,
    },
    /// Rewrite the compiler's golden outputs
    Bless {
        /// Only cases with this in their path
        filter: Option<String>,
    },
    /// Check crate borders against ARCHITECTURE.md, circles of modules, lengths of files and functions, plain words, and paths of this machine
    Tidy {
        /// Write the figures of plain words (xtask/words.json) if they fell
        #[arg(long)]
        lower: bool,
    },
    /// Write the skeleton of a new kind of policy: type, policy, golden input, sample, and its rows in the two lists of kinds
    NewKind {
        /// The name in upper camel case, for example RetryPolicy
        name: String,
    },
    /// All that a change must pass: format, clippy, gen --check, tidy, tests
    Ci,
    /// Count the instructions of compiles and pushes by callgrind, and compare them with xtask/instructions.json
    Instructions {
        /// Only cases with this in their name
        filter: Option<String>,
        /// Fail if a case takes more than 10 % more than is committed
        #[arg(long, conflicts_with = "bless")]
        check: bool,
        /// Write the counts
        #[arg(long)]
        bless: bool,
    },
    /// Measure all figures of docs/performance.md, on this machine, in release builds
    Bench,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    let repo = match arguments.repository {
        Some(root) => Repo::at(root),
        None => Repo::find()?,
    };
    match arguments.task {
        Task::Gen { check: false } => generate::write(&repo),
        Task::Gen { check: true } => generate::check(&repo),
        Task::Bless { filter } => ci::bless(&repo, filter.as_deref()),
        Task::Tidy { lower } => tidy::run(&repo, lower),
        Task::NewKind { name } => new_kind::run(&repo, &name),
        Task::Ci => ci::run(&repo),
        Task::Instructions {
            filter,
            check,
            bless,
        } => {
            let purpose = match (check, bless) {
                (_, true) => Purpose::Bless,
                (true, false) => Purpose::Check,
                (false, false) => Purpose::Show,
            };
            instructions::run(&repo, purpose, filter.as_deref())
        }
        Task::Bench => ci::bench(&repo),
    }
}
