"""An attachment for each entry."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('guests', '0001_initial'),
    ]

    operations = [
        migrations.AlterModelOptions(
            name='entry',
            options={'ordering': ['-signed', '-id'], 'verbose_name_plural': 'entries'},
        ),
        migrations.AddField(
            model_name='entry',
            name='attachment',
            field=models.FileField(blank=True, upload_to='%Y/%m/'),
        ),
    ]
