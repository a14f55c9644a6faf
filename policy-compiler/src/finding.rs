//! Findings: messages for users about one object, with field, reason and fix.

use std::fmt;
use std::sync::Arc;

use crate::kind::ObjectKind;

/// One object, by kind and name. Cluster-scoped objects have an empty namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// The kind.
    pub kind: ObjectKind,
    /// The namespace, empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// An object of a namespace.
    #[must_use]
    pub fn new(kind: ObjectKind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// A cluster-scoped object.
    #[must_use]
    pub fn cluster(kind: ObjectKind, name: &str) -> Self {
        Self::new(kind, "", name)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind.as_str(), self.name)
        } else {
            write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
        }
    }
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The object, or a part of it, does not have the effect that its spec describes.
    Error,
    /// It works, but probably not as meant.
    Warning,
    /// Worth knowing.
    Info,
}

impl Severity {
    /// Lower-case name, as printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// One thing a user should know about one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// The object that has the problem.
    pub object: ObjectRef,
    /// Path of the field, for example `spec.rules[2].to.ports`; empty for the object as a whole.
    pub field: String,
    /// A stable code in CamelCase, the same word that status conditions use as reason.
    pub code: &'static str,
    /// The problem.
    pub message: String,
    /// The instruction to fix the problem.
    pub fix: String,
}

/// A finding without its fix.
#[derive(Clone, Debug)]
#[must_use = "a finding is made by its fix"]
pub struct Unfixed(Finding);

impl Unfixed {
    /// Adds the instruction to fix the problem.
    pub fn fix(self, fix: impl Into<String>) -> Finding {
        Finding {
            fix: fix.into(),
            ..self.0
        }
    }
}

impl Finding {
    /// An error.
    pub fn error(
        object: &ObjectRef,
        field: impl Into<String>,
        code: &'static str,
        message: impl Into<String>,
    ) -> Unfixed {
        Self::unfixed(Severity::Error, object, field, code, message)
    }

    /// A warning.
    pub fn warning(
        object: &ObjectRef,
        field: impl Into<String>,
        code: &'static str,
        message: impl Into<String>,
    ) -> Unfixed {
        Self::unfixed(Severity::Warning, object, field, code, message)
    }

    /// A note.
    pub fn info(
        object: &ObjectRef,
        field: impl Into<String>,
        code: &'static str,
        message: impl Into<String>,
    ) -> Unfixed {
        Self::unfixed(Severity::Info, object, field, code, message)
    }

    fn unfixed(
        severity: Severity,
        object: &ObjectRef,
        field: impl Into<String>,
        code: &'static str,
        message: impl Into<String>,
    ) -> Unfixed {
        Unfixed(Self {
            severity,
            object: object.clone(),
            field: field.into(),
            code,
            message: message.into(),
            fix: String::new(),
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}; {}", self.message, self.fix)
    }
}
