//! What looks like a secret in a client's configuration, so that none is copied into ours.

use std::path::Path;

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

/// Whether one of these arguments of a program does: by itself, or because of the option before it. Which, counted from 1.
pub(super) fn secret_argument(program: &str, args: &[String]) -> Option<usize> {
    let secret = |(at, arg): (usize, &String)| {
        let option = at.checked_sub(1).map(|before| args[before].as_str()).filter(|it| it.starts_with('-'));
        let parts = [('=', "-"), (':', "")].into_iter().filter_map(|(mark, begin)| {
            // What has a slash before its colon is a place or an image, and no header.
            let is_named = |name: &str| name.starts_with(begin) && !name.contains('/');
            arg.split_once(mark).filter(|(name, value)| is_named(name) && !value.starts_with("//"))
        });
        let named = parts.chain(option.map(|option| (option, arg.as_str())));
        let is = named.into_iter().any(|(name, value)| !value.is_empty() && is_secret(name, value.trim()));
        (is || is_secret_value(arg) || is_short_secret(program, &args[..at], arg)).then_some(at + 1)
    };
    args.iter().enumerate().find_map(secret)
}

/// Whether an argument is a password by a short option before it, or in one with it. `-p` is also a port, and to those who start
/// packages one of these.
fn is_short_secret(program: &str, before: &[String], arg: &str) -> bool {
    let is_number = |text: &str| {
        let text = text.trim_end_matches("/tcp").trim_end_matches("/udp");
        text.bytes().all(|byte| byte.is_ascii_digit() || b".:".contains(&byte))
    };
    match before.split_last() {
        Some((option, earlier)) if option == "-p" => {
            let starts = STARTERS.contains(&program.rsplit('/').next().unwrap_or(program));
            let is_package = starts && earlier.iter().all(|it| it.starts_with('-'));
            !is_package && !arg.starts_with('-') && !is_number(arg) && !is_harmless(arg)
        }
        Some((option, _)) if option == "-u" || option == "--user" => arg.contains(':') && !is_number(arg),
        _ => arg.strip_prefix("-p").is_some_and(|rest| {
            let has = |kind: fn(&u8) -> bool| rest.bytes().any(|byte| kind(&byte));
            has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic) && !rest.contains('=')
        }),
    }
}

const STARTERS: [&str; 6] = ["bunx", "npm", "npx", "pnpm", "uv", "uvx"];

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

const WORDS: [&str; 15] = [
    "auth",
    "authorization",
    "bearer",
    "cookie",
    "creds",
    "dsn",
    "jwt",
    "keys",
    "passwords",
    "pat",
    "pin",
    "pwd",
    "secrets",
    "tokens",
    "webhook",
];
const ENDINGS: [&str; 11] = [
    "apikey",
    "credential",
    "credentials",
    "key",
    "pass",
    "passphrase",
    "passwd",
    "password",
    "pw",
    "secret",
    "token",
];

const MEASURES: [&str; 14] = [
    "budget", "count", "expiry", "length", "limit", "max", "maximum", "min", "minimum", "seconds", "size",
    "timeout", "ttl", "window",
];

/// What is no secret whatever it is called: a switch, a file. What only looks like the path of one may be anything: a secret in
/// base64 begins with a slash, too.
fn is_harmless(value: &str) -> bool {
    ["", "0", "1"].contains(&value) || value.parse::<bool>().is_ok() || is_there(value)
}

fn is_there(path: &str) -> bool {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest).exists(),
        (Some(_), None) => false,
        (None, _) => (path.starts_with('/') || path.starts_with("./")) && Path::new(path).exists(),
    }
}

fn is_small(value: &str) -> bool {
    value.len() <= 6 && value.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_secret_value(value: &str) -> bool {
    let is_between = |c: char| is_around(c) || "=;,<>()".contains(c);
    let with_password = Url::parse(value).is_ok_and(|url| is_secret_address(&url))
        || value.split(is_between).any(|part| Url::parse(part).is_ok_and(|url| url.password().is_some()));
    with_password
        || has_known_token(value)
        || is_assigned(value)
        || value.contains("-----BEGIN")
        || is_random(value)
}

/// Whether one of its words begins as tokens do, and is as long as one.
fn has_known_token(value: &str) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.+/=~".contains(byte);
    PREFIXES.iter().any(|prefix| {
        value.match_indices(*prefix).any(|(at, _)| {
            let (before, rest) = (&value[..at], &value[at + prefix.len()..]);
            !before.ends_with(is_of_name) && rest.bytes().take_while(is_token).count() >= SHORTEST_TOKEN
        })
    })
}

/// Whether something in it is given a value by the name of a secret: `Password=…;`, `"token": "…"`.
fn is_assigned(value: &str) -> bool {
    value.match_indices(['=', ':']).any(|(at, mark)| {
        let before = value[..at].trim_end_matches(is_around);
        let name = before.rsplit(|c: char| !is_of_name(c)).next().unwrap_or_default();
        let after = value[at + mark.len()..].trim_start_matches(is_around);
        let said = after.split(|c: char| is_around(c) || ";,&})".contains(c)).next().unwrap_or_default();
        // The last part of a place or of an image, and the host of an address, are no names.
        let is_place =
            mark == ":" && (said.starts_with("//") || before[..before.len() - name.len()].ends_with('/'));
        let words = words(name);
        let is_amount = is_small(said) && is_measure(&words);
        !is_place && !is_amount && !is_harmless(said) && is_secret_name(&words)
    })
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '-'
}

/// What stands around names and values, in JSON and elsewhere.
fn is_around(c: char) -> bool {
    c.is_whitespace() || ['"', '\'', '\\'].contains(&c)
}

/// Without its prefix.
const SHORTEST_TOKEN: usize = 8;

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
            ("AWS_SECRET_ACCESS_KEY", "/jalrXUtnFEMIxK7MDENGxbPxRfiCYEXAMPLEKEY"),
            ("DB_PASSWORD", "/s3cretw0rd"),
            ("SSH_KEY", "~/no/such/file"),
            ("PW", "correcthorse"),
            ("PGPASS", "abc"),
            ("CONN", "Server=h;User Id=u;Password=pw123456;"),
            ("CONFIG", r#"{"k":"sk-ant-abcdefghijklmnopqrstuvwxyz"}"#),
            ("CONFIG", r#"{"user": "u", "password" : "x"}"#),
            ("CONFIG", r#"{\"token\":\"x\"}"#),
            ("OPTIONS", "--db=postgres://me:hunter2@db.example/x"),
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
            ("SSH_KEY", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")),
            ("OPTIONS", "max_tokens=4096 use_auth=false"),
            ("SERVICE", "http://auth:8080/mcp"),
            ("IMAGE", "registry.example/me/token:latest"),
            ("NOTE", "see task-management-system"),
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
        let of = |program: &str, args: &[&str]| {
            secret_argument(program, &args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
        };
        let found = |args: &[&str]| of("server", args);
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
        assert_eq!(found(&["server.py", "-p", "hunter2pw"]), Some(3));
        assert_eq!((found(&["-phunter2pw"]), found(&["-u", "me:hunter2"])), (Some(1), Some(2)));
        assert_eq!(found(&["Server=h;Uid=u;Pwd=pw123456"]), Some(1));
        assert_eq!(found(&["-p", "8080", "-p", "127.0.0.1:8080:80/tcp", "-u", "1000:1000"]), None);
        assert_eq!(found(&["-v", "/srv/keys:/keys", "registry.example/me/auth:latest"]), None);
        assert_eq!(of("/usr/bin/npx", &["-y", "-p", "@me/server", "server"]), None);
        assert_eq!(of("npx", &["-y", "server", "-p", "hunter2"]), Some(4));
    }
}
