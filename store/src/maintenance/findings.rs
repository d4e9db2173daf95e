//! What a verification finds, and what was done about it.

use serde::{Deserialize, Serialize};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A line of the history can't be read.
    History,
    /// A line of the history can be read, and breaks a rule of names, numbers or references.
    Rules,
    /// The catalogue can't be opened, or differs from the history.
    Catalogue,
    /// Bytes differ from what was published.
    PayloadDamaged,
    /// Bytes are not there.
    PayloadMissing,
    /// They could not be read, which says nothing of what they are.
    PayloadUnreadable,
    /// Somebody else could read or change what is private.
    Permissions,
    /// A file that nothing needs, as a crash leaves it. No harm; `gc` removes it.
    Orphan,
}

/// Something found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// A path under the store's directory, or a part of the catalogue.
    pub place: String,
    /// What was found there.
    pub detail: String,
    /// The versions that need it: `KEY@VERSION`.
    pub versions: Vec<String>,
    /// What repair did about it.
    pub repaired: Option<String>,
    /// Whether something is gone that only a backup can bring back.
    pub lost: bool,
}

impl Finding {
    pub(crate) fn new(kind: FindingKind, place: impl ToString, detail: impl ToString) -> Finding {
        let (place, detail) = (place.to_string(), detail.to_string());
        Finding { kind, place, detail, versions: Vec::new(), repaired: None, lost: false }
    }
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Changes of the history.
    pub changes: u64,
    /// Records of the catalogue.
    pub records: u64,
    /// Payloads.
    pub payloads: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Verified {
    /// Whether nothing is wrong, or was put right. A file that nothing needs is nothing wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings
            .iter()
            .all(|f| f.kind == FindingKind::Orphan || f.repaired.is_some() && !f.lost)
    }
}
