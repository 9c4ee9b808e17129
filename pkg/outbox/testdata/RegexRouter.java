import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.regex.PatternSyntaxException;

/**
 * Answers each line of three base64 fields (pattern, replacement, value) with
 * the topic in base64, by the rule of Kafka Connect's RegexRouter, with "?" for
 * a pattern that Java refuses, or with "!" where Java throws later.
 */
public class RegexRouter {
    public static void main(String[] args) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        StringBuilder out = new StringBuilder();
        for (String line; (line = in.readLine()) != null; ) {
            String[] fields = line.split(" ", -1);
            out.append(topic(decode(fields[0]), decode(fields[1]), decode(fields[2]))).append('\n');
        }
        System.out.print(out);
    }

    private static String topic(String pattern, String replacement, String value) {
        try {
            Matcher matcher = Pattern.compile(pattern).matcher(value);
            String topic = matcher.matches() ? matcher.replaceFirst(replacement) : value;
            return Base64.getEncoder().encodeToString(topic.getBytes(StandardCharsets.UTF_8));
        } catch (PatternSyntaxException e) {
            return "?";
        } catch (RuntimeException e) {
            return "!";
        }
    }

    private static String decode(String field) {
        return new String(Base64.getDecoder().decode(field), StandardCharsets.UTF_8);
    }
}
