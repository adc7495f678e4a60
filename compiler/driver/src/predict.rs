//! What a model would need and reach on devices: a prediction from sizes alone, marked as one wherever it is shown.
//!
//! A step reads its weights and its cache and computes its products; on each op a device waits for the slower of the two. The sum over a step's
//! ops is the least time that memory and arithmetic allow, so the tokens per second are an upper bound. Devices that share a model hold
//! consecutive layers: a sequence passes them one after the other, and more of them make it no faster.

use crate::account::Account;
use crate::report;
use q35_dialects::Model;

/// A device as its maker describes it.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// The target whose code it runs.
    pub target: &'static str,
    /// What it is called.
    pub name: &'static str,
    /// Bytes of memory for weights and cache.
    pub memory: f64,
    /// Bytes read per second.
    pub bandwidth: f64,
    /// Operations per second in the arithmetic that the target uses.
    pub operations: f64,
}

const GB: f64 = 1e9;
const TERA: f64 = 1e12;

/// The devices that launch kernels; chips with a schedule or a placement answer for themselves ([`Target::outlook`](q35_target::Target::outlook)).
/// Sources: makers' data sheets. Memory of a computer is what one puts into it: these are common sizes.
pub const DEVICES: &[Device] = &[
    Device {
        target: "cpu",
        name: "desktop, 2 channels of DDR5",
        memory: 64.0 * GB,
        bandwidth: 80.0 * GB,
        operations: 1.5 * TERA,
    },
    Device {
        target: "cpu",
        name: "server, 8 channels of DDR5",
        memory: 512.0 * GB,
        bandwidth: 300.0 * GB,
        operations: 20.0 * TERA,
    },
    Device { target: "cuda", name: "RTX 4090", memory: 24.0 * GB, bandwidth: 1008.0 * GB, operations: 165.0 * TERA },
    Device { target: "cuda", name: "A100 80 GB", memory: 80.0 * GB, bandwidth: 2039.0 * GB, operations: 312.0 * TERA },
    Device { target: "cuda", name: "H100 SXM", memory: 80.0 * GB, bandwidth: 3350.0 * GB, operations: 989.0 * TERA },
    Device { target: "rocm", name: "RX 7900 XTX", memory: 24.0 * GB, bandwidth: 960.0 * GB, operations: 123.0 * TERA },
    Device { target: "rocm", name: "MI210", memory: 64.0 * GB, bandwidth: 1600.0 * GB, operations: 181.0 * TERA },
    Device { target: "rocm", name: "MI300X", memory: 192.0 * GB, bandwidth: 5300.0 * GB, operations: 1307.0 * TERA },
];

/// Share of a device's memory that weights and cache may fill.
const FILLED: f64 = 0.9;

/// What is predicted for a device.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Prediction {
    /// What it is called.
    pub device: &'static str,
    /// How many of them hold weights and cache.
    pub count: u64,
    /// Tokens per second of one sequence, at most.
    pub tokens_per_second: f64,
    /// Tokens per second of all sequences together, at most.
    pub all_tokens_per_second: f64,
}

/// Predictions for the devices of a target: so many sequences of `context` tokens.
pub fn predict(model: &Model, account: &Account, target: &str, batch: u64, context: u64) -> Vec<Prediction> {
    let held = account.total().bytes as f64 + cache_bytes(account, batch, context) as f64;
    let costs = report::costs_at(model, [batch, batch, batch, context]);
    let devices = DEVICES.iter().filter(|device| device.target == target);
    let prediction = |device: &Device| {
        let seconds: f64 = costs
            .iter()
            .map(|cost| (cost.bytes as f64 / device.bandwidth).max(cost.operations as f64 / device.operations))
            .sum();
        // At least one byte takes some time.
        let rate = 1.0 / seconds.max(1e-12);
        Prediction {
            device: device.name,
            count: (held / (device.memory * FILLED)).ceil().max(1.0) as u64,
            tokens_per_second: round(rate),
            all_tokens_per_second: round(rate * batch as f64),
        }
    };
    devices.map(prediction).collect()
}

/// Bytes of cache for so many sequences.
pub fn cache_bytes(account: &Account, batch: u64, context: u64) -> u64 {
    account.cache_bytes_per_token.saturating_mul(context).saturating_mul(batch)
}

/// Two digits: a prediction has no more.
fn round(rate: f64) -> f64 {
    let unit = 10f64.powf(rate.abs().max(1e-9).log10().floor() - 1.0);
    let rounded = (rate / unit).round() * unit;
    // Powers of ten below one are not exact; the digits are.
    (rounded * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_digits_are_left() {
        assert_eq!([123.0, 9.87, 0.0456, 1.0].map(round), [120.0, 9.9, 0.046, 1.0]);
    }

    #[test]
    fn every_target_with_devices_has_them_by_memory() {
        for target in ["cpu", "cuda", "rocm"] {
            assert!(DEVICES.iter().any(|device| device.target == target), "{target}");
        }
        assert!(DEVICES.iter().all(|device| device.memory > 0.0 && device.bandwidth > 0.0 && device.operations > 0.0));
    }
}
