import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.LinkedHashSet;
import java.util.Random;
import java.util.Set;
import java.util.UUID;
import org.apache.kafka.common.utils.Utils;

/** Prints keys, in hexadecimal, with the partitions that the Java client puts them in. */
public class Murmur2 {
    private static final int[] COUNTS = {1, 3, 12, 50};

    private final Set<String> keys = new LinkedHashSet<>();
    private final Random random = new Random(1);

    public static void main(String[] args) {
        Murmur2 all = new Murmur2();
        all.texts();
        all.planes();
        all.numbers();
        all.bytes();
        System.out.println("key\t1\t3\t12\t50");
        all.keys.forEach(Murmur2::print);
    }

    private static void print(String hex) {
        int hash = Utils.toPositive(Utils.murmur2(HexFormat.of().parseHex(hex)));
        StringBuilder line = new StringBuilder(hex);
        for (int count : COUNTS) {
            line.append('\t').append(hash % count);
        }
        System.out.println(line);
    }

    private void add(byte[] key) {
        keys.add(HexFormat.of().formatHex(key));
    }

    private void add(String key) {
        add(key.getBytes(StandardCharsets.UTF_8));
    }

    private void texts() {
        for (String s : new String[] {"", " ", "a", "ab", "abc", "abcd", "abcde", "order", "Order-1", "customer/42",
                "null", "true", "{\"id\":1}", "a b", "tab\tnew\nline", "\u0000", "a\u0000b", "\"quoted\"", "'"}) {
            add(s);
        }
        for (int n : new int[] {7, 8, 9, 63, 64, 65, 255, 256, 1023, 1024, 4099}) {
            add("x".repeat(n));
        }
        for (int i = 0; i < 60; i++) {
            add("order-" + i);
        }
    }

    private void planes() {
        for (int plane = 0; plane <= 16; plane++) {
            for (int offset : new int[] {0x41, 0x3b1, 0x4e2d, 0xfffd}) {
                add(Character.toString(plane << 16 | offset));
            }
        }
        for (String s : new String[] {"Größe", "e\u0301", "\u00e9", "naïve café", "ключ", "مفتاح", "鍵", "키", "👩‍👩‍👧", "🇩🇪"}) {
            add(s);
        }
    }

    private void numbers() {
        for (long n : new long[] {-1, 0, 1, 10, 2147483647L, -2147483648L, Long.MAX_VALUE, Long.MIN_VALUE}) {
            add(Long.toString(n));
            add(ByteBuffer.allocate(8).putLong(n).array());
        }
        for (int i = 0; i < 50; i++) {
            byte[] bytes = new byte[16];
            random.nextBytes(bytes);
            add(UUID.nameUUIDFromBytes(bytes).toString());
        }
    }

    private void bytes() {
        for (int b : new int[] {0x80, 0xc0, 0xfe, 0xff}) {
            for (int n = 1; n <= 5; n++) {
                byte[] key = new byte[n];
                java.util.Arrays.fill(key, (byte) b);
                add(key);
            }
        }
        for (int n = 1; n <= 60; n++) {
            byte[] key = new byte[n];
            random.nextBytes(key);
            add(key);
        }
    }
}
