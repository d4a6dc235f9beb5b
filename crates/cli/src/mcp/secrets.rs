//! What looks like a secret in a client's configuration, so that none is copied into ours.

use reqwest::Url;

/// Whether a variable, header, option or query member of this name and value holds a secret, as far as one can tell. In doubt
/// it does: then its value is to be exported, and nothing else is lost.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    let words = words(name);
    if is_harmless(value) || is_small(value) && is_measure(&words) {
        return false;
    }
    is_secret_name(&words) || is_secret_value(value)
}

/// Whether one of these arguments does: by itself, or because of the option before it. Which, counted from 1.
pub(super) fn secret_argument(args: &[String]) -> Option<usize> {
    let secret = |(at, arg): (usize, &String)| {
        let option = at.checked_sub(1).map(|before| args[before].as_str()).filter(|it| it.starts_with('-'));
        let parts = [('=', "-"), (':', "")].into_iter().filter_map(|(mark, begin)| {
            arg.split_once(mark).filter(|(name, value)| name.starts_with(begin) && !value.starts_with("//"))
        });
        let named = parts.chain(option.map(|option| (option, arg.as_str())));
        let is = named.into_iter().any(|(name, value)| !value.is_empty() && is_secret(name, value.trim()));
        (is || is_secret_value(arg)).then_some(at + 1)
    };
    args.iter().enumerate().find_map(secret)
}

/// Whether an address does: a password, or a member of its query.
pub(super) fn is_secret_address(url: &Url) -> bool {
    url.password().is_some() || url.query_pairs().any(|(name, value)| is_secret(&name, &value))
}

/// `apiKey` and `API_KEY` are the same words.
fn words(name: &str) -> Vec<String> {
    let mut words = String::new();
    let mut before_is_lower = false;
    for c in name.chars() {
        if c.is_uppercase() && before_is_lower {
            words.push('_');
        }
        before_is_lower = c.is_lowercase();
        words.push(if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
    }
    words.split('_').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn is_secret_name(words: &[String]) -> bool {
    let is_secret =
        |word: &String| WORDS.contains(&word.as_str()) || ENDINGS.iter().any(|ending| word.ends_with(ending));
    words.iter().any(is_secret)
}

/// Whether a number of this name says how much or how long, as `MAX_TOKENS` does: a PIN is a small number, too.
fn is_measure(words: &[String]) -> bool {
    words.iter().any(|word| MEASURES.contains(&word.as_str()))
}

const WORDS: [&str; 16] = [
    "auth",
    "authorization",
    "bearer",
    "cookie",
    "creds",
    "dsn",
    "jwt",
    "keys",
    "pass",
    "passwords",
    "pat",
    "pin",
    "pwd",
    "secrets",
    "tokens",
    "webhook",
];
const ENDINGS: [&str; 9] =
    ["apikey", "credential", "credentials", "key", "passphrase", "passwd", "password", "secret", "token"];

const MEASURES: [&str; 14] = [
    "budget", "count", "expiry", "length", "limit", "max", "maximum", "min", "minimum", "seconds", "size",
    "timeout", "ttl", "window",
];

/// What is no secret whatever it is called: a switch, a file.
fn is_harmless(value: &str) -> bool {
    let is_path = value.starts_with('/') || value.starts_with("./") || value.starts_with("~/");
    is_path || ["", "0", "1"].contains(&value) || value.parse::<bool>().is_ok()
}

fn is_small(value: &str) -> bool {
    value.len() <= 6 && value.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_secret_value(value: &str) -> bool {
    let known = PREFIXES.iter().any(|prefix| value.starts_with(prefix) && value.len() >= prefix.len() + 8);
    let with_password = Url::parse(value).is_ok_and(|url| is_secret_address(&url));
    known || with_password || value.contains("-----BEGIN") || is_random(value)
}

const PREFIXES: [&str; 29] = [
    "AIza",
    "AKIA",
    "ASIA",
    "Basic ",
    "Bearer ",
    "SG.",
    "dop_v1_",
    "eyJ",
    "figd_",
    "ghp_",
    "gho_",
    "ghr_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "hf_",
    "lin_api_",
    "npm_",
    "ntn_",
    "pk_live_",
    "pypi-",
    "rk_live_",
    "sbp_",
    "sk-",
    "sk_live_",
    "tvly-",
    "xapp-",
    "xox",
];

/// Long, of letters and digits, and no letter much more frequent than the others.
fn is_random(value: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-+=".contains(&byte);
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    let letters = value.bytes().filter(u8::is_ascii_alphabetic).count();
    if value.len() < 24 || !value.bytes().all(plain) || digits < 4 || letters < 4 {
        return false;
    }
    let most = value.bytes().map(|byte| value.bytes().filter(|other| *other == byte).count()).max();
    most.unwrap_or_default() * 5 <= value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_its_name_or_its_value() {
        for (name, value) in [
            ("GITHUB_PERSONAL_ACCESS_TOKEN", "x"),
            ("apiKey", "abc"),
            ("OPENAI_APIKEY", "abc"),
            ("DB_PASSWORD", "hunter"),
            ("X", "ghp_0123456789abcdef"),
            ("X", "postgres://me:hunter2@db.example/x"),
            ("X", "https://a.example/?access_token=1234567"),
            ("X", "9f86d081884c7d659a2feaa0c55ad015"),
            ("Authorization", "Basic dXNlcjpwYXNz"),
            ("PIN", "1234"),
            ("CARD_PIN", "000000"),
            ("DB_PASSWORD", "123456"),
        ] {
            assert!(is_secret(name, value), "{name}={value}");
        }
        for (name, value) in [
            ("LOG_LEVEL", "debug"),
            ("MAX_TOKEN", "4096"),
            ("MAX_TOKENS", "4096"),
            ("tokenLimit", "200000"),
            ("KEY_SIZE", "2048"),
            ("USE_AUTH", "false"),
            ("USE_AUTH", "1"),
            ("PORT", "8080"),
            ("SSH_KEY", "/home/me/.ssh/id_ed25519"),
            ("DATABASE", "postgres://db.example/x"),
            ("TZ", "America/Argentina/ComodRivadavia"),
            ("MONKEYS", "3 of them"),
            ("REPOSITORY", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa1111"),
        ] {
            assert!(!is_secret(name, value), "{name}={value}");
        }
    }

    #[test]
    fn arguments_are_looked_at_beside_their_options() {
        let found =
            |args: &[&str]| secret_argument(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
        assert_eq!(found(&["-y", "server", "--api-key", "abc"]), Some(4));
        assert_eq!(found(&["--token=abc"]), Some(1));
        assert_eq!((found(&["--pin", "1234"]), found(&["--max-tokens", "4096"])), (Some(2), None));
        assert_eq!(found(&["-y", "server", "postgresql://u:p@localhost/db"]), Some(3));
        assert_eq!(found(&["--header", "Authorization: Bearer abc"]), Some(2));
        assert_eq!(found(&["--header", "Authorization:${AUTH}"]), Some(2));
        assert_eq!(found(&["-y", "@modelcontextprotocol/server-filesystem", "/home/me"]), None);
        assert_eq!(found(&["mcp-server-git", "--repository", "/srv/x", "--port=8080"]), None);
        assert_eq!(
            found(&["run", "-i", "--rm", "-e", "GITHUB_TOKEN", "ghcr.io/github/github-mcp-server"]),
            None
        );
    }
}
