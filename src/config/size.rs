//! Amounts of memory as people write them.

/// Bytes of `8GB`, `512 MiB` or `1.5e9`: decimal units, or binary ones with an `i`.
pub fn bytes(text: &str) -> Option<usize> {
    let text = text.trim();
    let at = text.find(|c: char| c.is_ascii_alphabetic() && c != 'e').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit = match unit.trim() {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => f64::from(1 << 20),
        "GiB" => f64::from(1 << 30),
        "TiB" => 1024.0 * f64::from(1 << 30),
        _ => return None,
    };
    let bytes = number.trim().parse::<f64>().ok()? * unit;
    (bytes >= 1.0 && bytes.is_finite()).then_some(bytes as usize)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn units_are_decimal_or_binary() {
        let known =
            [("8GB", 8_000_000_000), ("512 MiB", 512 << 20), ("1.5e9", 1_500_000_000), ("64kB", 64_000)];
        for (text, expected) in known {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in ["", "GB", "8 gigs", "-1GB", "0", "nanGB", "infGB"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
