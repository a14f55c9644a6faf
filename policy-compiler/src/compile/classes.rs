//! What pods have in common: a class shares one server's side, and callers of one workload and identity share their listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock, Weak};

use super::inbound::{Inbound, inbound};
use super::listeners::ListenerInput;
use super::memo::Memo;
use super::outcome::Remarks;
use super::server;
use crate::kinds::auth_policy::Policy;
use crate::kinds::mesh::Settings;
use crate::resource::Part;
use crate::world::{Labels, NamespacedName, Service, Shape, SpiffeId, selects};

/// Who calls: what the listeners of a pod say about their own side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Caller {
    pub(crate) namespace: Arc<str>,
    pub(crate) owner: Arc<str>,
    pub(crate) principal: SpiffeId,
}

/// A caller with the listeners that were made for it.
#[derive(Debug)]
pub(crate) struct Callers {
    pub(crate) caller: Caller,
    pub(crate) listeners: Memo<ListenerInput>,
}

/// What pods with equal inputs share.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) callers: Arc<Callers>,
    pub(crate) input: Inbound,
    base: OnceLock<Arc<Part>>,
    /// What pods of the shape had before, as far as anybody still has it.
    before: Weak<Part>,
}

impl Class {
    /// The class of that content: one of the known ones, if it is among them.
    fn of<'a>(
        caller: Caller,
        input: Inbound,
        known: impl Iterator<Item = &'a Arc<Self>> + Clone,
        before: Option<&Self>,
    ) -> Arc<Self> {
        let mut same = known.clone().filter(|class| class.callers.caller == caller);
        if let Some(class) = same.clone().find(|class| class.input == input) {
            return Arc::clone(class);
        }
        let callers = same.next().map(|class| Arc::clone(&class.callers));
        let callers = callers.unwrap_or_else(|| {
            Arc::new(Callers {
                caller,
                listeners: Memo::default(),
            })
        });
        Arc::new(Self {
            callers,
            input,
            base: OnceLock::new(),
            before: before.map(Self::last_base).unwrap_or_default(),
        })
    }

    /// The server's side. What comes out as before is the very same.
    pub(crate) fn base(&self) -> Arc<Part> {
        let make = || {
            let part = Part {
                resources: server::server(&self.input),
            };
            match self.before.upgrade() {
                Some(before) => part.like(&before),
                None => Arc::new(part),
            }
        };
        Arc::clone(self.base.get_or_init(make))
    }

    fn last_base(&self) -> Weak<Part> {
        self.base
            .get()
            .map_or_else(|| Weak::clone(&self.before), Arc::downgrade)
    }
}

/// The server's side of the pods of a shape.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) class: Arc<Class>,
    /// What it means for the policies that select the pods.
    pub(crate) remarks: Remarks,
    /// The services that select the pods.
    pub(crate) services: BTreeSet<NamespacedName>,
}

impl Served {
    /// Whether it is the same class that says the same.
    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.class, &other.class)
            && self.remarks == other.remarks
            && self.services == other.services
    }

    /// Compiles a shape; `before` is what it was, `known` are the classes of its workload.
    pub(crate) fn new<'a>(
        shape: &Shape,
        services: &[&Service],
        policies: &[Policy],
        settings: &Settings,
        known: impl Iterator<Item = &'a Arc<Class>> + Clone,
        before: Option<&Self>,
    ) -> Self {
        let mut remarks = Remarks::default();
        let input = inbound(shape, services, policies, settings, &mut remarks);
        let caller = Caller {
            namespace: Arc::clone(&shape.namespace),
            owner: Arc::clone(&shape.owner),
            principal: shape.identity(&settings.trust_domain),
        };
        Self {
            class: Class::of(caller, input, known, before.map(|before| &*before.class)),
            remarks,
            services: services.iter().map(|s| s.name.clone()).collect(),
        }
    }
}

/// The shapes of a workload's proxies: more than one while it is rolled out.
pub(crate) type Shapes = BTreeMap<Arc<Shape>, Arc<Served>>;

/// The services of a namespace by one pair of their selector, so that finding those of a pod does not look at all.
#[derive(Default)]
pub(crate) struct BySelector<'a>(BTreeMap<(&'a str, &'a str), Vec<&'a Service>>);

impl<'a> BySelector<'a> {
    pub(crate) fn new(services: impl Iterator<Item = &'a Arc<Service>>) -> Self {
        let mut index = Self::default();
        for service in services {
            // The last pair in the order of keys: prefixed keys of tools, which many services share, sort to the front.
            if let Some((key, value)) = service.selector.last_key_value() {
                index.0.entry((key, value)).or_default().push(service);
            }
        }
        index
    }

    /// The services that select pods with these labels, by name.
    pub(crate) fn selecting(&self, labels: &Labels) -> Vec<&'a Service> {
        let pairs = labels.iter().map(|(key, value)| (&**key, &**value));
        let candidates = pairs.filter_map(|pair| self.0.get(&pair)).flatten();
        let mut found: Vec<&Service> = candidates
            .copied()
            .filter(|service| selects(&service.selector, labels))
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }
}
