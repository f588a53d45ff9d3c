"""A JVM: threads, monitors, a pool of scheduled tasks, code that the compiler has just made, and garbage."""
from app import CountingApp

PROGRAM = r"""
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

public class Main {
    static class Log {
        final RandomAccessFile file;
        int next;
        Log(String name) throws IOException { file = new RandomAccessFile(name, "rw"); }
        synchronized void add(int n) {
            if (n != next++) fail(n + " is not next");
            try { file.write(String.format("%08d\n", n).getBytes(StandardCharsets.US_ASCII)); }
            catch (IOException e) { fail(e.toString()); }
        }
    }

    static void fail(String why) {
        System.err.println(why);
        Runtime.getRuntime().halt(1);
    }

    interface Step { int step(int n) throws Exception; }

    static void thread(String name, Step step) throws IOException {
        Log log = new Log(name);
        new Thread(() -> {
            try {
                for (int n = 0; ; n++) { log.add(step.step(n)); Thread.sleep(2); }
            } catch (Exception e) { fail(name + ": " + e); }
        }, name).start();
    }

    static long sum(int n) {
        long sum = 0;
        for (int i = 0; i < 2000; i++) sum += (long) i * n % 7;
        return sum;
    }

    public static void main(String[] arguments) throws Exception {
        SynchronousQueue<Integer> there = new SynchronousQueue<>(), back = new SynchronousQueue<>();
        thread("log-queue", n -> { there.put(n); return back.take() - 1; });
        Thread echo = new Thread(() -> {
            try { while (true) back.put(there.take() + 1); } catch (InterruptedException e) { fail("interrupted"); }
        });
        echo.start();
        Map<Integer, byte[]> kept = new HashMap<>();
        thread("log-garbage", n -> {
            byte[] bytes = new byte[100000];
            bytes[n % 100000] = (byte) n;
            kept.put(n, bytes);
            byte[] old = kept.remove(n - 50);
            if (n >= 50 && old[(n - 50) % 100000] != (byte) (n - 50)) fail("memory is not what it was");
            return n;
        });
        long[] sums = new long[1000];
        for (int i = 0; i < 1000; i++) sums[i] = sum(i);
        thread("log-compiled", n -> sum(n % 1000) == sums[n % 1000] ? n : -1);
        Log ticks = new Log("log-ticks");
        AtomicInteger tick = new AtomicInteger();
        Executors.newScheduledThreadPool(2).scheduleAtFixedRate(
            () -> { synchronized (ticks) { ticks.add(tick.getAndIncrement()); } }, 3, 3, TimeUnit.MILLISECONDS);
    }
}
"""


class Test(CountingApp):
    programs = ("java", "javac")
    logs = ("log-queue", "log-garbage", "log-compiled", "log-ticks")

    def start(self):
        self.write("Main.java", PROGRAM)
        self.run(["javac", "Main.java"], seconds=60)
        self.spawn(["java", "-Xmx256m", "-cp", self.work, "Main"], stdout="stdout")
