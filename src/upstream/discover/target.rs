//! `Target`: the description of a server by a source.

use std::{fmt, str::FromStr};

use crate::upstream::{ServerAddress, endpoint::EndpointKey, remote::is_supported};

/// A server found by a source. In a file or in etcd it is a line of text: a [`ServerAddress`], and options that differ
/// from the defaults.
///
/// ```
/// use vestibule::upstream::discover::Target;
///
/// let target: Target = "10.0.0.1:3000 weight=4 tier=1 zone=eu-1".parse()?;
/// assert_eq!((target.weight, target.tier, &*target.zone), (4, 1, "eu-1"));
/// assert_eq!(target.key().as_str(), "10.0.0.1:3000");
/// assert!("unix:/run/app.sock".parse::<Target>().is_ok());
/// # #[cfg(feature = "tls")]
/// assert!("https://api.example weight=2".parse::<Target>().is_ok());
/// assert!("10.0.0.1:3000 wieght=4".parse::<Target>().is_err());
/// # Ok::<(), vestibule::upstream::discover::InvalidTarget>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The address, and the protocol.
    pub address: ServerAddress,
    /// The share of the requests, relative to the others. Default 1.
    pub weight: u32,
    /// The tier; 0, the default, is used first.
    pub tier: u8,
    /// The zone; empty by default.
    pub zone: String,
}

/// A text that is not a valid target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a valid target: {why}")]
pub struct InvalidTarget {
    text: String,
    why: String,
}

impl Target {
    /// Creates a target with weight 1.
    pub fn new(address: impl Into<ServerAddress>) -> Self {
        Self { address: address.into(), weight: 1, tier: 0, zone: String::new() }
    }

    /// Returns the key: the address.
    pub fn key(&self) -> EndpointKey {
        self.address.to_string().into()
    }

    /// Parses one target per line; ignores empty lines and text after `#`.
    ///
    /// # Errors
    /// The first invalid line.
    pub(super) fn parse_lines(text: &str) -> Result<Vec<Self>, InvalidTarget> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        lines.filter(|line| !line.is_empty()).map(str::parse).collect()
    }
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(text: &str) -> Result<Self, InvalidTarget> {
        let invalid = |why: &dyn fmt::Display| InvalidTarget {
            text: text.chars().take(200).collect(),
            why: why.to_string(),
        };
        let mut words = text.split_whitespace();
        let address = words.next().ok_or_else(|| invalid(&"it is empty"))?;
        let address: ServerAddress = address.parse().map_err(|e| invalid(&e))?;
        is_supported(address.scheme()).map_err(|e| invalid(&e))?;
        let mut target = Self::new(address);
        for word in words {
            let (name, value) = word.split_once('=').ok_or_else(|| invalid(&"not name=value"))?;
            match name {
                "weight" => target.weight = value.parse().map_err(|e| invalid(&e))?,
                "tier" => target.tier = value.parse().map_err(|e| invalid(&e))?,
                "zone" => target.zone = value.to_owned(),
                _ => return Err(invalid(&format_args!("unknown option '{name}'"))),
            }
        }
        Ok(target)
    }
}
