package config

import (
	"net/url"
	"slices"
	"strings"
)

// pair is one parameter of a connection string. In a URL both are still
// percent-encoded.
type pair struct{ key, value string }

// dsnURL is a connection string in URL form, taken apart but not decoded.
// https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS
type dsnURL struct {
	scheme, user string
	password     *string // nil: none
	hosts, path  string
	params       []pair
}

// shownKeywords are the parameters whose values are no secret. What is not
// listed is masked.
var shownKeywords = []string{
	"application_name", "channel_binding", "client_encoding", "connect_timeout", "database", "dbname", "gssencmode",
	"host", "hostaddr", "krbsrvname", "load_balance_hosts", "max_protocol_version", "min_protocol_version",
	"passfile", "port", "require_auth", "search_path", "service", "servicefile", "sslcert", "sslkey", "sslmode",
	"sslnegotiation", "sslrootcert", "sslsni", "ssl_max_protocol_version", "ssl_min_protocol_version",
	"target_session_attrs", "user",
}

var errDSN = &invalidError{
	"is not a connection string",
	"postgres://user@host:5432/database, or host=... user=... dbname=...",
}

// checkDSN reports what is wrong with the form of a connection string. Its
// errors hold nothing of it. What the parameters mean is pgx's to judge.
func checkDSN(s string) error {
	if isURL(s) {
		_, err := parseURL(s)
		return err
	}
	_, err := parseKeywords(s)
	return err
}

// maskDSN replaces the secrets in a connection string, or all of it if its form
// leaves any doubt about where they are.
func maskDSN(s string) string {
	if isURL(s) {
		u, err := parseURL(s)
		if err != nil || strings.Contains(u.path, "@") || slices.ContainsFunc(u.params, hasAt) {
			return mask
		}
		return u.masked()
	}
	pairs, err := parseKeywords(s)
	if err != nil {
		return mask
	}
	words := make([]string, len(pairs))
	for i, p := range pairs {
		words[i] = p.key + "=" + quoteKeyword(maskParam(p.key, p.value))
	}
	return strings.Join(words, " ")
}

// hasAt reports an @ that may end a password with a / or ? in it.
func hasAt(p pair) bool { return strings.Contains(p.key+p.value, "@") }

// dsnHasPassword reports whether a connection string of good form holds a
// password.
func dsnHasPassword(s string) bool {
	isPassword := func(p pair) bool { return p.key == "password" && p.value != "" }
	if isURL(s) {
		u, err := parseURL(s)
		return err == nil && (u.password != nil || slices.ContainsFunc(u.params, isPassword))
	}
	pairs, err := parseKeywords(s)
	return err == nil && slices.ContainsFunc(pairs, isPassword)
}

// ConnString returns DSN with Password in it, for pgx. It is a secret in clear. Of
// several hosts it takes the one that can be written to, unless the DSN says
// otherwise: that is what a list is for, and a standby takes no checkpoint.
func (p Postgres) ConnString() string {
	dsn := string(p.DSN)
	if p.Password != "" {
		dsn = addParam(dsn, "password", string(p.Password))
	}
	if hosts, attrs := dsnHosts(dsn); strings.Contains(hosts, ",") && attrs == "" {
		dsn = addParam(dsn, "target_session_attrs", "read-write")
	}
	return dsn
}

func addParam(dsn, key, value string) string {
	switch {
	case !isURL(dsn):
		return trimLeft(dsn + " " + key + "=" + quoteKeyword(value))
	case strings.Contains(dsn, "?"):
		return dsn + "&" + key + "=" + escapeURL(value)
	default:
		return dsn + "?" + key + "=" + escapeURL(value)
	}
}

// dsnHosts returns the hosts of a connection string of good form, and what it says
// of the session that is wanted.
func dsnHosts(s string) (hosts, attrs string) {
	var pairs []pair
	if isURL(s) {
		u, err := parseURL(s)
		if err != nil {
			return "", ""
		}
		hosts, pairs = u.hosts, u.params
	} else {
		pairs, _ = parseKeywords(s) // its form was checked
	}
	for _, p := range pairs {
		switch p.key {
		case "host":
			hosts = p.value
		case "target_session_attrs":
			attrs = p.value
		}
	}
	return hosts, attrs
}

// escapeURL writes a space as %20: in connection strings + is a plus.
func escapeURL(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

func isURL(s string) bool {
	return strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://")
}

func parseURL(s string) (dsnURL, error) {
	var u dsnURL
	scheme, rest, _ := strings.Cut(s, "://")
	u.scheme = scheme
	if strings.ContainsAny(rest, "#\x00") {
		return u, errDSN
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority := rest
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		authority, u.path = rest[:i], rest[i:]
	}
	u.hosts = authority
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		u.hosts = authority[i+1:]
		user, password, ok := strings.Cut(authority[:i], ":")
		if u.user = user; ok {
			u.password = &password
		}
	}
	for param := range strings.SplitSeq(query, "&") {
		if key, value, ok := strings.Cut(param, "="); ok {
			u.params = append(u.params, pair{key, value})
		} else if param != "" {
			return u, errDSN
		}
	}
	return u, u.check()
}

func (u dsnURL) check() error {
	encoded := u.user + u.path
	if u.password != nil {
		encoded += *u.password
	}
	for _, p := range u.params {
		encoded += p.key + p.value
	}
	if _, err := url.PathUnescape(encoded); err != nil {
		return &invalidError{"has a % that starts no escape", "write a % in a password as %25"}
	}
	for host := range strings.SplitSeq(u.hosts, ",") {
		_, port, ok := strings.Cut(host[strings.LastIndexByte(host, ']')+1:], ":")
		if ok && strings.Trim(port, "0123456789") != "" {
			return &invalidError{"has a port that is not a number", "write :, / and @ in a password as %3A, %2F and %40"}
		}
	}
	return nil
}

func (u dsnURL) masked() string {
	var b strings.Builder
	b.WriteString(u.scheme + "://" + u.user)
	if u.password != nil {
		b.WriteString(":" + mask)
	}
	if u.user != "" || u.password != nil {
		b.WriteByte('@')
	}
	b.WriteString(u.hosts + u.path)
	for i, p := range u.params {
		b.WriteByte("?&"[min(i, 1)])
		b.WriteString(p.key + "=" + maskParam(p.key, p.value))
	}
	return b.String()
}

func maskParam(key, value string) string {
	if value == "" || slices.Contains(shownKeywords, key) {
		return value
	}
	return mask
}

// parseKeywords reads the form host=localhost dbname='my db'.
// https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-KEYWORD-VALUE
func parseKeywords(s string) ([]pair, error) {
	var pairs []pair
	for rest := trimLeft(s); rest != ""; rest = trimLeft(rest) {
		key, after, ok := strings.Cut(rest, "=")
		key = strings.Trim(key, spaces)
		if !ok || key == "" || strings.ContainsAny(key, spaces+"'\\\x00") {
			return nil, errDSN
		}
		value, tail, err := cutKeywordValue(trimLeft(after))
		if err != nil {
			return nil, err
		}
		pairs, rest = append(pairs, pair{key, value}), tail
	}
	return pairs, nil
}

// spaces part the words of a connection string. One behind a backslash belongs to
// its word, so nothing is ever trimmed at the right.
const spaces = " \t\r\n\v\f"

func trimLeft(s string) string { return strings.TrimLeft(s, spaces) }

var errBackslash = &invalidError{"ends in a backslash", `write a backslash as \\`}

var errQuote = &invalidError{"has a quote that does not end", `in '...' write a quote as \' and a backslash as \\`}

// cutKeywordValue cuts the value that s begins with, and unquotes it. A
// backslash makes the next character an ordinary one.
func cutKeywordValue(s string) (value, rest string, err error) {
	quoted := strings.HasPrefix(s, "'")
	s = strings.TrimPrefix(s, "'")
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			if i++; i == len(s) {
				return "", "", errBackslash
			}
			b.WriteByte(s[i])
		case quoted && c == '\'':
			return b.String(), s[i+1:], nil
		case !quoted && strings.IndexByte(spaces, c) >= 0:
			return b.String(), s[i:], nil
		default:
			b.WriteByte(c)
		}
	}
	if quoted {
		return "", "", errQuote
	}
	return b.String(), "", nil
}

var keywordQuoter = strings.NewReplacer(`\`, `\\`, `'`, `\'`)

func quoteKeyword(s string) string {
	if s != "" && !strings.ContainsAny(s, spaces+"'\\") {
		return s
	}
	return "'" + keywordQuoter.Replace(s) + "'"
}

// connString reads a connection string; empty is allowed.
var connString = parser[Secret]{kind: kindSecret, parse: func(s string) (Secret, error) {
	if err := checkDSN(s); err != nil {
		return "", err
	}
	return Secret(s), nil
}}
